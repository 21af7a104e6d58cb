/* C interface of the Rust crate tokenizer_c: the Hugging Face tokenizer, the Jinja chat template, pages of HTML,
 * grammars of JSON schemas and an editor of lines on a terminal.
 *
 * Functions that can fail return NULL or a negative number; tokenizer_c_last_error() then says why. No function
 * unwinds, prints or aborts: a panic inside and memory that ends become an error. What loads, encodes, decodes, renders
 * and follows a grammar is bounded in bytes and time, by the size of what goes in, and encoding and
 * decoding also by all that went into the same tokenizer before; a bound that is met is an error. Texts
 * are bytes with a length, must be UTF-8 where they go in and are UTF-8 where they come out, and may contain NUL.
 * Whatever is handed out is freed by the function named there.
 */
#ifndef METAL_MARLIN_SOURCE_TOKENIZER_C_TOKENIZER_C_H_
#define METAL_MARLIN_SOURCE_TOKENIZER_C_TOKENIZER_C_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tokenizer_c tokenizer_c;

/* Bytes owned by the crate; freed by tokenizer_c_text_free. data is NULL when the call failed. */
typedef struct tokenizer_c_text {
  char* data;
  size_t size;
} tokenizer_c_text;

/* Token ids owned by the crate; freed by tokenizer_c_ids_free. data is NULL when the call failed. */
typedef struct tokenizer_c_ids {
  uint32_t* data;
  size_t size;
} tokenizer_c_ids;

/* The message of this thread's last failed call, valid until its next failing call. Never NULL. */
const char* tokenizer_c_last_error(void);

/* A tokenizer from the bytes of a tokenizer.json; its truncation and padding settings are dropped. NULL on failure.
 * A tokenizer may be used by many threads at once, except in tokenizer_c_set_ends, tokenizer_c_add_tokens and
 * tokenizer_c_free. */
tokenizer_c* tokenizer_c_create(const char* json, size_t size);
void tokenizer_c_free(tokenizer_c* tokenizer);

/* Replaces the post-processor: with special tokens, encoding yields [bos] ids [eos]; NULL leaves that end bare.
 * 0, or -1 when a token is not in the vocabulary. */
int tokenizer_c_set_ends(tokenizer_c* tokenizer, const char* bos, size_t bos_size, const char* eos, size_t eos_size);
/* 1 when the tokenizer has a post-processor, else 0; -1 on failure. */
int tokenizer_c_has_post_processor(const tokenizer_c* tokenizer);

tokenizer_c_ids tokenizer_c_encode(const tokenizer_c* tokenizer, const char* text, size_t size, int add_special_tokens);
/* Unknown ids are left out; bytes that form no UTF-8 become U+FFFD. */
tokenizer_c_text tokenizer_c_decode(const tokenizer_c* tokenizer, const uint32_t* ids, size_t count,
                                    int skip_special_tokens);

/* Adds the tokens of a JSON array of {"content", "single_word", "lstrip", "rstrip", "normalized", "special"}, all of
 * them given: a token that is there gets these attributes, others get the next free ids. 0, or -1 on failure, and then
 * the tokenizer can only be freed. */
int tokenizer_c_add_tokens(tokenizer_c* tokenizer, const char* json, size_t size);

/* The largest id of a token; -1 on failure. */
int64_t tokenizer_c_last_id(const tokenizer_c* tokenizer);
/* Where a text may be cut so that the ids of its parts are those of the whole: at a line feed between a visible ASCII
 * character and an ASCII letter, 1: behind it; 2: before it, and each part's ids begin with what the tokenizer puts
 * before any text; 0: nowhere that is known. -1 on failure. `json`: {"cutting": [...], "indifferent": [...]}, patterns
 * that cut behind such a line feed whatever stands around it, and patterns that match alike with and without the rest
 * of the text. */
int tokenizer_c_line_cut(const tokenizer_c* tokenizer, const char* json, size_t size);
/* Number of tokens, added ones included; -1 on failure. */
int64_t tokenizer_c_vocab_size(const tokenizer_c* tokenizer);
/* The id, -1 when there is no such token, -2 on failure. */
int64_t tokenizer_c_token_to_id(const tokenizer_c* tokenizer, const char* token, size_t size);
/* The token as it stands in the vocabulary. Fails for an unknown id. */
tokenizer_c_text tokenizer_c_id_to_token(const tokenizer_c* tokenizer, uint32_t id);

/* Lets every call that takes long ask now and then, from any thread, whether it shall stop with an error: `asked`
 * answers 0 for no. NULL: nobody is asked, as at the start. */
void tokenizer_c_set_stop(int (*asked)(void));

void tokenizer_c_ids_free(tokenizer_c_ids ids);
void tokenizer_c_text_free(tokenizer_c_text text);

/* Whether a Jinja template can be parsed and all its filters and tests are known, as jinja2 finds out before it
 * renders. 0, or -1 with the fault and its line. */
int tokenizer_c_check_template(const char* source, size_t size);

/* Renders a Jinja template as transformers renders chat templates: trim_blocks, lstrip_blocks, loop controls, Python's
 * string and dict methods, tojson and printing as in Python, raise_exception, strftime_now. context is a JSON object.
 * now: the moment of strftime_now in seconds since 1970, or negative for the system's clock. */
tokenizer_c_text tokenizer_c_render(const char* source, size_t source_size, const char* context, size_t context_size,
                                    int64_t now);

/* Renders a template of this program as HTML: every value that it prints is escaped, and one that is missing is an
 * error. For templates that a file brings, take tokenizer_c_render. context is a JSON object. */
tokenizer_c_text tokenizer_c_render_page(const char* source, size_t source_size, const char* context,
                                         size_t context_size);

/* What the tokens of a grammar stand for: the bytes that each of the ids [0, rows) adds to a text. `ends` end a text,
 * so that no value holds them. NULL as the tokenizer: a vocabulary of the 256 bytes, whatever `rows` and `ends`. Fails
 * for a tokenizer whose decoder makes other bytes of a token beside others. For many threads at once, except to free
 * it. */
typedef struct tokenizer_c_vocabulary tokenizer_c_vocabulary;
tokenizer_c_vocabulary* tokenizer_c_vocabulary_create(const tokenizer_c* tokenizer, size_t rows, const uint32_t* ends,
                                                      size_t count);
void tokenizer_c_vocabulary_free(tokenizer_c_vocabulary* vocabulary);

/* The JSON values that fit a JSON schema, token by token. Fails for a schema that is no JSON, that has a keyword of the
 * standard that is not supported, that no value fits, or that is too large. One thread at a time. */
typedef struct tokenizer_c_grammar tokenizer_c_grammar;
tokenizer_c_grammar* tokenizer_c_grammar_create(const tokenizer_c_vocabulary* vocabulary, const char* schema,
                                                size_t size);
/* Another one in the same state, which shares nothing that changes. */
tokenizer_c_grammar* tokenizer_c_grammar_copy(const tokenizer_c_grammar* grammar);
void tokenizer_c_grammar_free(tokenizer_c_grammar* grammar);

/* Sets bit id % 32 of bits[id / 32] for each token that may follow, clears the others. count: rows / 32, rounded up.
 * 1: the value may also end here; 0: it may not; -1 on failure. Without a bit that is set it can only end. */
int tokenizer_c_grammar_mask(tokenizer_c_grammar* grammar, uint32_t* bits, size_t count);
/* Adds a token that the mask allows. 1: now the value can only end; 0: more may follow; -1 on failure. */
int tokenizer_c_grammar_take(tokenizer_c_grammar* grammar, uint32_t token);
/* How many of the first of these tokens may follow, one after another; -1 on failure. Changes nothing. */
int64_t tokenizer_c_grammar_fitting(tokenizer_c_grammar* grammar, const uint32_t* tokens, size_t count);
/* 1: the value may end here; 0: it may not; -1 on failure. */
int tokenizer_c_grammar_may_end(tokenizer_c_grammar* grammar);

/* Reads lines from the terminal of the process, with the keys of Emacs, earlier lines (the last `most`) and pasted
 * text. Where TERM names a terminal that cannot do this (dumb), from stdin without. One thread at a time. */
typedef struct tokenizer_c_editor tokenizer_c_editor;
tokenizer_c_editor* tokenizer_c_editor_create(size_t most);
void tokenizer_c_editor_free(tokenizer_c_editor* editor);
/* Adds an earlier line, unless it equals the last one. 0, or -1 on failure. */
int tokenizer_c_editor_remember(tokenizer_c_editor* editor, const char* line, size_t size);

#define TOKENIZER_C_LINE 1        /* `line` holds it, without its line feed */
#define TOKENIZER_C_END 2         /* Ctrl-D on an empty line, or there is no more to read */
#define TOKENIZER_C_INTERRUPTED 3 /* Ctrl-C on an empty line */
#define TOKENIZER_C_DROPPED 4     /* Ctrl-C, which dropped what the line held */
/* Shows the prompt and waits. One of these, or -1 on failure; sets `line` for TOKENIZER_C_LINE alone. The terminal has
 * its modes from before again when the call ends. */
int tokenizer_c_editor_read(tokenizer_c_editor* editor, const char* prompt, size_t size, tokenizer_c_text* line);

#ifdef __cplusplus
}
#endif

#endif
