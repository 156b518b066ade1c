/* mod_origin_double: a film's manifest, its indexes and the heads of their media. */

#include "origin_double.h"

typedef struct {
    request_rec *r;
    const char *report; /* The lines so far. */
    int failed;         /* A manifest or an index could not be read. */
} film_t;

static apr_uint32_t crc32_of(const char *bytes, apr_size_t len)
{
    apr_uint32_t crc = 0xffffffffu;
    int bit;

    while (len--) {
        crc ^= (unsigned char)*bytes++;
        for (bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

/* Reads the first `most` bytes of a URI, from a slice or from the whole, and reports the line.
 * NULL if storage did not give them. */
static capture_t *read_head(film_t *film, const char *uri, const char *range, apr_size_t most)
{
    apr_pool_t *p = film->r->pool;
    ask_t *ask = new_ask(p);
    capture_t *c = new_capture(film->r);
    result_t result = { .fields = apr_table_make(p, 16) };
    const char *cache_status;
    int status;

    ask->range = range;
    run_one(film->r, ask, uri, c, &result);
    status = status_of(&result);
    if (c->len > most)
        c->len = most;
    cache_status = apr_table_get(result.fields, "Cache-Status");
    film->report = apr_psprintf(p, "%s%d %" APR_SIZE_T_FMT " %08x %s %s\n", film->report, status, c->len,
                                crc32_of(c->bytes, c->len), uri, cache_status ? cache_status : "-");
    return !c->failure && (status == HTTP_OK || status == HTTP_PARTIAL_CONTENT) ? c : NULL;
}

/* A reference resolved against the URI that holds it. */
static const char *resolved(apr_pool_t *p, const char *base, const char *reference)
{
    const char *slash = strrchr(base, '/');

    if (is_absolute(reference) || !slash)
        return reference;
    return apr_pstrcat(p, apr_pstrmemdup(p, base, (apr_size_t)(slash + 1 - base)),
                       ap_os_escape_path(p, reference, 1), NULL);
}

static apr_uint32_t be32(const char *at)
{
    const unsigned char *b = (const unsigned char *)at;

    return (apr_uint32_t)b[0] << 24 | (apr_uint32_t)b[1] << 16 | (apr_uint32_t)b[2] << 8 | b[3];
}

/* The location in a "url " box at `at`, or NULL: size, type, version and flags, then the name.
 * Flag 1 says that the media is in the same file. */
static const char *url_location(apr_pool_t *p, const char *at, apr_size_t left)
{
    apr_size_t size;

    if (left < 13 || memcmp(at + 4, "url ", 4) || be32(at + 8) & 1)
        return NULL;
    size = be32(at);
    if (size < 13 || size > left)
        return NULL;
    return apr_pstrndup(p, at + 12, size - 12);
}

/* The first file that a dref box refers to, or NULL. */
static const char *data_reference(apr_pool_t *p, const capture_t *c)
{
    apr_size_t i;

    for (i = 4; i + 12 < c->len; i++) {
        if (!memcmp(c->bytes + i, "dref", 4)) {
            const char *name = url_location(p, c->bytes + i + 12, c->len - i - 12);

            if (name)
                return name;
        }
    }
    return NULL;
}

static void read_index(film_t *film, const char *uri)
{
    apr_pool_t *p = film->r->pool;
    capture_t *index = read_head(film, uri, "bytes=0-65535", 65536);
    const char *name = index ? data_reference(p, index) : NULL;

    if (!name) {
        film->failed = 1;
        return;
    }
    read_head(film, resolved(p, uri, name), "bytes=0-1023", 1024);
}

static void read_film(film_t *film, const char *manifest_uri)
{
    apr_pool_t *p = film->r->pool;
    capture_t *manifest = read_head(film, manifest_uri, "bytes=0-", (apr_size_t)-1);
    const char *text, *src;
    int indexes = 0;

    if (manifest && manifest->len) {
        text = apr_pstrmemdup(p, manifest->bytes, manifest->len);
        while ((src = strstr(text, " src=\"")) != NULL) {
            text = src + 6;
            read_index(film, resolved(p, manifest_uri, apr_pstrmemdup(p, text, strcspn(text, "\""))));
            indexes++;
        }
    }
    if (!indexes)
        film->failed = 1;
}

int film(request_rec *r)
{
    film_t played = { r, "", 0 };

    if (conf_of(r)->subreq != 1)
        return HTTP_NOT_IMPLEMENTED;
    read_film(&played, ap_os_escape_path(r->pool, r->uri, 1));
    return answer_text(r, played.failed ? HTTP_BAD_GATEWAY : HTTP_OK, played.report);
}
