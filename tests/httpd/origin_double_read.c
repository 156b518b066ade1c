/* mod_origin_double: sub-requests as the origin issues them, and a filter that takes what they deliver. */

#include "origin_double.h"

#include "util_filter.h"

#include <stdlib.h>

/* ---- What a sub-request delivers ---- */

static ap_filter_rec_t *capture_handle;

static apr_status_t free_bytes(void *capture_v)
{
    free(((capture_t *)capture_v)->bytes);
    return APR_SUCCESS;
}

capture_t *new_capture(request_rec *r)
{
    capture_t *c = apr_pcalloc(r->pool, sizeof *c);

    c->r = r;
    c->first = 1;
    apr_pool_cleanup_register(r->pool, c, free_bytes, apr_pool_cleanup_null);
    return c;
}

static apr_status_t store(capture_t *c, const char *data, apr_size_t n)
{
    if (c->space - c->len < n) {
        apr_size_t space = (c->len + n) * 2;
        char *bytes = realloc(c->bytes, space);

        if (!bytes)
            return APR_ENOMEM;
        c->bytes = bytes;
        c->space = space;
    }
    memcpy(c->bytes + c->len, data, n);
    c->len += n;
    return APR_SUCCESS;
}

static void compare(capture_t *c, const char *data, apr_size_t n)
{
    if (c->len - c->at < n || memcmp(c->bytes + c->at, data, n))
        c->differs = 1;
    else
        c->at += n;
}

apr_status_t drain(capture_t *c, apr_bucket_brigade *bb)
{
    while (!APR_BRIGADE_EMPTY(bb)) {
        apr_bucket *e = APR_BRIGADE_FIRST(bb);
        const char *data;
        apr_size_t n;
        apr_status_t rv = APR_SUCCESS;

        if (!APR_BUCKET_IS_METADATA(e)) {
            rv = apr_bucket_read(e, &data, &n, APR_BLOCK_READ);
            if (!rv && n && c->first)
                rv = store(c, data, n);
            else if (!rv && n)
                compare(c, data, n);
        }
        if (rv) {
            ap_log_rerror(APLOG_MARK, APLOG_ERR, rv, c->r, "cannot read a bucket of type %s", e->type->name);
            return c->failure = rv;
        }
        apr_bucket_delete(e);
    }
    return APR_SUCCESS;
}

static apr_status_t capture(ap_filter_t *f, apr_bucket_brigade *bb)
{
    capture_t *c = f->ctx;

    if (!c->kept)
        return drain(c, bb);
    return ap_save_brigade(f, &c->kept, &bb, c->r->pool);
}

void register_capture(void)
{
    /* Behind the sub-request's own content filters, before those of the main request. */
    capture_handle = ap_register_output_filter("ORIGIN_DOUBLE_CAPTURE", capture, NULL, AP_FTYPE_CONTENT_SET + 5);
}

/* ---- One sub-request ---- */

ask_t *new_ask(apr_pool_t *p)
{
    ask_t *ask = apr_pcalloc(p, sizeof *ask);

    ask->uris = apr_array_make(p, 4, sizeof(const char *));
    ask->fields = apr_array_make(p, 4, sizeof(const char *));
    ask->method = "GET";
    ask->rounds = 1;
    return ask;
}

/* Form B: a plain look-up, then the fields by hand. No <Proxy> is merged, nothing canonicalised. */
static request_rec *look_up_by_hand(request_rec *r, const ask_t *ask, const char *uri)
{
    const char *base = is_absolute(uri) ? "" : conf_of(r)->pass;
    request_rec *rr = ap_sub_req_method_uri(ask->method, PLAIN_URI, r, r->output_filters);

    rr->uri = apr_pstrmemdup(rr->pool, uri, strcspn(uri, "?"));
    rr->args = NULL;
    rr->proxyreq = PROXYREQ_REVERSE;
    rr->filename = apr_pstrcat(rr->pool, "proxy:", base, uri + (uri[0] == '/'), NULL);
    rr->handler = "proxy-server";
    rr->status = HTTP_OK;
    return rr;
}

static request_rec *look_up(request_rec *r, const ask_t *ask, const char *uri)
{
    if (ask->form_b || is_absolute(uri))
        return look_up_by_hand(r, ask, uri);
    return ap_sub_req_method_uri(ask->method, uri, r, r->output_filters);
}

static void prepare(request_rec *rr, const ask_t *ask)
{
    int i;

    if (ask->norange)
        apr_table_unset(rr->headers_in, "Range");
    if (ask->range)
        apr_table_setn(rr->headers_in, "Range", ask->range);
    for (i = 0; i < ask->fields->nelts; i++) {
        char *name = apr_pstrdup(rr->pool, APR_ARRAY_IDX(ask->fields, i, const char *));
        char *value = strchr(name, ':');

        *value++ = '\0';
        if (*value)
            apr_table_setn(rr->headers_in, name, value);
        else
            apr_table_unset(rr->headers_in, name);
    }
    if (ask->kept_body)
        rr->kept_body = apr_brigade_create(rr->pool, rr->connection->bucket_alloc);
}

static int add_field(void *table, const char *name, const char *value)
{
    apr_table_add(table, name, value);
    return 1;
}

static void copy_fields(apr_table_t *to, const request_rec *rr)
{
    apr_table_do(add_field, to, rr->headers_out, NULL);
    apr_table_do(add_field, to, rr->err_headers_out, NULL);
    if (rr->content_type && !apr_table_get(to, "Content-Type"))
        apr_table_set(to, "Content-Type", rr->content_type);
}

void run_one(request_rec *r, const ask_t *ask, const char *uri, capture_t *c, result_t *result)
{
    request_rec *rr = look_up(r, ask, uri);

    result->ran = rr->status == HTTP_OK;
    if (result->ran) {
        prepare(rr, ask);
        ap_add_output_filter_handle(capture_handle, c, rr, r->connection);
        result->returned = ap_run_sub_req(rr);
    }
    result->status = rr->status;
    if (result->fields)
        copy_fields(result->fields, rr);
    ap_destroy_sub_req(rr);
}

int status_of(const result_t *result)
{
    return result->ran && result->returned >= 400 ? result->returned : result->status;
}

/* ---- Answers ---- */

int answer(request_rec *r, int status, const char *type, const char *bytes, apr_size_t len)
{
    apr_table_unset(r->headers_in, "Range");
    r->status = status;
    ap_set_content_type(r, type);
    ap_set_content_length(r, (apr_off_t)len);
    while (len && !r->header_only) {
        int n = len > (1 << 20) ? 1 << 20 : (int)len;

        if (ap_rwrite(bytes, n, r) < 0)
            break;
        bytes += n;
        len -= (apr_size_t)n;
    }
    return OK;
}

int answer_text(request_rec *r, int status, const char *text)
{
    return answer(r, status, "text/plain", text, strlen(text));
}
