/*
 * Integer expressions on the command line; see hmp_expr_parse in args.h.
 *
 * Recursive descent over 64-bit arithmetic that wraps.  Registers ($rip) are
 * QEMU's business: commands that take them are not ours.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "args.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 200

typedef struct {
    const char *p;
    GString *out;
    unsigned depth;
} Expr;

static bool parse_sum(Expr *e, int64_t *value);

static bool fail(Expr *e, const char *message)
{
    g_string_append(e->out, message);
    g_string_append_c(e->out, '\n');
    return false;
}

static void skip_spaces(Expr *e)
{
    while (g_ascii_isspace(*e->p)) {
        e->p++;
    }
}

/* Over the character at hand and the spaces behind it. */
static void advance(Expr *e)
{
    if (*e->p) {
        e->p++;
        skip_spaces(e);
    }
}

static bool parse_number(Expr *e, int64_t *value)
{
    char *end;

    errno = 0;
    *value = (int64_t)strtoull(e->p, &end, 0);
    if (errno == ERANGE) {
        return fail(e, "number too large");
    }
    if (end == e->p) {
        g_string_append_printf(e->out, "invalid char '%c' in expression\n", *e->p);
        return false;
    }
    e->p = end;
    skip_spaces(e);
    return true;
}

static bool parse_char(Expr *e, int64_t *value)
{
    e->p++;
    if (!*e->p) {
        return fail(e, "character constant expected");
    }
    *value = *e->p++;
    if (*e->p != '\'') {
        return fail(e, "missing terminating ' character");
    }
    advance(e);
    return true;
}

static bool parse_unary(Expr *e, int64_t *value)
{
    char c = *e->p;
    bool ok;

    if (!c) {
        return fail(e, "unexpected end of expression");
    }
    if (c == '\'') {
        return parse_char(e, value);
    }
    if (c == '$') {
        return fail(e, "unknown register");
    }
    if (!strchr("+-~(", c)) {
        return parse_number(e, value);
    }
    if (++e->depth > MAX_DEPTH) {
        return fail(e, "expression too deep");
    }
    advance(e);
    ok = c == '(' ? parse_sum(e, value) : parse_unary(e, value);
    e->depth--;
    if (!ok) {
        return false;
    }
    if (c == '-') {
        *value = (int64_t)(0 - (uint64_t)*value);
    } else if (c == '~') {
        *value = ~*value;
    } else if (c == '(') {
        if (*e->p != ')') {
            return fail(e, "')' expected");
        }
        advance(e);
    }
    return true;
}

/* @value op= @right */
static bool apply(Expr *e, char op, int64_t *value, int64_t right)
{
    uint64_t a = (uint64_t)*value, b = (uint64_t)right;

    switch (op) {
    case '*': a *= b; break;
    case '&': a &= b; break;
    case '|': a |= b; break;
    case '^': a ^= b; break;
    case '+': a += b; break;
    case '-': a -= b; break;
    default:
        if (right == 0) {
            return fail(e, "division by zero");
        }
        if (right == -1) { /* the one quotient that does not fit */
            a = op == '/' ? 0 - a : 0;
        } else {
            a = (uint64_t)(op == '/' ? *value / right : *value % right);
        }
    }
    *value = (int64_t)a;
    return true;
}

/* Operands of the next level joined by any of @ops, from left to right. */
static bool parse_level(Expr *e, int64_t *value, const char *ops,
                        bool (*operand)(Expr *, int64_t *))
{
    if (!operand(e, value)) {
        return false;
    }
    while (*e->p && strchr(ops, *e->p)) {
        char op = *e->p;
        int64_t right;

        advance(e);
        if (!operand(e, &right) || !apply(e, op, value, right)) {
            return false;
        }
    }
    return true;
}

static bool parse_product(Expr *e, int64_t *value)
{
    return parse_level(e, value, "*/%", parse_unary);
}

static bool parse_logic(Expr *e, int64_t *value)
{
    return parse_level(e, value, "&|^", parse_product);
}

static bool parse_sum(Expr *e, int64_t *value)
{
    return parse_level(e, value, "+-", parse_logic);
}

bool hmp_expr_parse(const char **p, int64_t *value, GString *out)
{
    Expr e = { .p = *p, .out = out };
    bool ok;

    skip_spaces(&e);
    ok = parse_sum(&e, value);
    *p = e.p;
    return ok;
}
