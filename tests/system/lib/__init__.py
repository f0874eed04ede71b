"""What the system tests share.  SPDX-License-Identifier: GPL-2.0-or-later"""
