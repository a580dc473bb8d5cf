/* SPDX-License-Identifier: MIT
 *
 * text.h -- the few things the recorder does with texts.
 *
 * The functions of libc lie on pages that a small program never touches: calling them would bring
 * these in, a block of 64 KiB for each.
 */
#ifndef PA_TEXT_H
#define PA_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline size_t text_length(const char *text)
{
    size_t n = 0;
    while (text[n] != '\0') {
        n++;
    }
    return n;
}

static inline bool text_begins(const char *text, const char *with)
{
    while (*with != '\0' && *text == *with) {
        text++;
        with++;
    }
    return *with == '\0';
}

static inline void text_bytes(char *to, const char *from, size_t size)
{
    for (size_t n = 0; n < size; n++) {
        to[n] = from[n];
    }
}

/* Copies the zero, too, and returns where it is now. */
static inline char *text_copy(char *to, const char *from)
{
    while ((*to = *from++) != '\0') {
        to++;
    }
    return to;
}

/* What does not fit is left out; the rest of `to` stays as it is. */
static inline void text_cut(char *to, size_t room, const char *from, size_t size)
{
    size_t n = 0;
    for (; n < size && n + 1 < room && from[n] != '\0'; n++) {
        to[n] = from[n];
    }
    to[n] = '\0';
}

/* The value of "NAME=VALUE"; NULL: it has another name. */
static inline char *text_value(const char *entry, const char *name)
{
    size_t length = text_length(name);
    bool named = text_begins(entry, name) && entry[length] == '=';
    return named ? (char *)(uintptr_t)entry + length + 1 : NULL;
}

/* LD_PRELOAD is a list with blanks or colons between its names. */
static inline bool text_is_border(char c)
{
    return c == ' ' || c == ':';
}

static inline size_t text_first_of_list(const char *list)
{
    size_t n = 0;
    while (list[n] != '\0' && !text_is_border(list[n])) {
        n++;
    }
    return n;
}

#endif
