/* mod_subbench: what a sub-request costs inside httpd. A request on its handler makes the same sub-request N times, as a
 * streaming origin does, and throws the bytes away, so that no second client stands in the way.
 *
 *   SubBenchRoot DIR           the files of modes mmap and raw
 *   SetHandler subbench        query: mode=MODE&u=URI[&r=FIRST-LAST][&n=COUNT][&touch=0]
 *     mode=uri    the sub-request as the server maps it; with r, a Range is set after the lookup
 *     mode=none   lookup and destruction only: what every sub-request pays
 *     mode=mmap   after the same lookup, a bare handler gives the file out of a long-lived mapping, as one bucket
 *     mode=raw    no sub-request: the same bytes copied out of that mapping
 *     touch=0     the bytes are handed over, but not copied
 *
 * The answer is one line of JSON: statuses, bytes, an MD5 of the last copy, bytes over loopback, and the wall time of a call: the
 * calls are timed in short slices, and the median slice counts, so that a slice in which the thread had to wait for its CPU does not. */
#include "httpd.h"
#include "http_config.h"
#include "http_protocol.h"
#include "http_request.h"
#include "util_filter.h"
#include "apr_hash.h"
#include "apr_md5.h"
#include "apr_strings.h"
#include "apr_thread_rwlock.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BUFFER_LEN (1 << 20)
#define CALLS_MAX 100000
#define SLICES 40
#define BARE_HANDLER "subbench-mmap"

typedef struct {
    const char *root;
} server_conf;

typedef struct {
    const char *data;
    apr_size_t len;
} mapping;

/* One run: what is asked, and what came. */
typedef struct {
    const char *mode, *uri, *range; /* range: FIRST-LAST or NULL */
    apr_off_t first, last;          /* last < 0: the whole object */
    int calls, touch;
    char *buffer;
    int bad, status;
    apr_uint64_t wanted, crossed; /* bytes inside the range; bytes read, wanted or not */
    apr_size_t copied;            /* by the last call */
    const char *cache_status;     /* of the last call */
} run;

/* One sub-request's consumer. */
typedef struct {
    run *run;
    apr_off_t position;
    apr_size_t copied;
} capture;

module AP_MODULE_DECLARE_DATA subbench_module;
static ap_filter_rec_t *capture_filter;
static apr_pool_t *mappings_pool;
static apr_hash_t *mappings;
static apr_thread_rwlock_t *mappings_lock;

static const server_conf *conf_of(const request_rec *r)
{
    return ap_get_module_config(r->server->module_config, &subbench_module);
}

/* Consumers */

/* Takes the part of `data` that lies in the range; a partial answer has been cut already. */
static void take(capture *c, int partial, const char *data, apr_size_t len)
{
    run *k = c->run;
    apr_off_t from = c->position, to = c->position + (apr_off_t)len, begin = from;
    if (!partial && k->last >= 0) {
        from = from < k->first ? k->first : from;
        to = to > k->last + 1 ? k->last + 1 : to;
    }
    c->position += (apr_off_t)len;
    k->crossed += len;
    if (to <= from) return;
    k->wanted += (apr_uint64_t)(to - from);
    if (!k->touch) return;
    len = (apr_size_t)(to - from);
    if (len > BUFFER_LEN - c->copied) len = BUFFER_LEN - c->copied;
    memcpy(k->buffer + c->copied, data + (from - begin), len);
    c->copied += len;
}

/* Buckets of which a part can be had without reading the rest. */
static int splits_freely(const apr_bucket *e)
{
    return APR_BUCKET_IS_IMMORTAL(e) || APR_BUCKET_IS_MMAP(e) || APR_BUCKET_IS_FILE(e);
}

/* Cuts what needs no reading: drops a bucket before or after the range, splits one that crosses its ends.
 * True when the brigade changed, so that its first bucket must be looked at again. */
static int cut(capture *c, apr_bucket *e)
{
    const run *k = c->run;
    apr_off_t end = c->position + (apr_off_t)e->length;
    if (k->last < 0 || !splits_freely(e) || e->length == (apr_size_t)-1) return 0;
    if (end <= k->first || c->position > k->last) {
        c->position = end;
        apr_bucket_delete(e);
        return 1;
    }
    if (c->position < k->first) return apr_bucket_split(e, (apr_size_t)(k->first - c->position)) == APR_SUCCESS;
    if (end > k->last + 1) return apr_bucket_split(e, (apr_size_t)(k->last + 1 - c->position)) == APR_SUCCESS;
    return 0;
}

static apr_status_t capture_output(ap_filter_t *f, apr_bucket_brigade *brigade)
{
    capture *c = f->ctx;
    int partial = f->r->status == HTTP_PARTIAL_CONTENT;
    while (!APR_BRIGADE_EMPTY(brigade)) {
        apr_bucket *e = APR_BRIGADE_FIRST(brigade);
        const char *data;
        apr_size_t len;
        apr_status_t rv;
        if (APR_BUCKET_IS_METADATA(e)) {
            apr_bucket_delete(e);
            continue;
        }
        if (!partial && cut(c, e)) continue;
        if ((rv = apr_bucket_read(e, &data, &len, APR_BLOCK_READ)) != APR_SUCCESS) return rv;
        take(c, partial, data, len);
        apr_bucket_delete(e);
    }
    return APR_SUCCESS;
}

/* The bare handler */

static mapping *map_file(const char *path)
{
    mapping *m = NULL;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return NULL;
    if (fstat(fd, &st) == 0) {
        void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (data != MAP_FAILED) {
            m = apr_palloc(mappings_pool, sizeof *m);
            m->data = data;
            m->len = (apr_size_t)st.st_size;
        }
    }
    close(fd);
    return m;
}

static mapping *mapping_of(const char *root, const char *uri)
{
    mapping *m;
    apr_thread_rwlock_rdlock(mappings_lock);
    m = apr_hash_get(mappings, uri, APR_HASH_KEY_STRING);
    apr_thread_rwlock_unlock(mappings_lock);
    if (m) return m;
    apr_thread_rwlock_wrlock(mappings_lock);
    m = apr_hash_get(mappings, uri, APR_HASH_KEY_STRING);
    if (!m && (m = map_file(apr_pstrcat(mappings_pool, root, uri, NULL))))
        apr_hash_set(mappings, apr_pstrdup(mappings_pool, uri), APR_HASH_KEY_STRING, m);
    apr_thread_rwlock_unlock(mappings_lock);
    return m;
}

static int bare_handler(request_rec *r)
{
    apr_bucket_alloc_t *alloc = r->connection->bucket_alloc;
    apr_bucket_brigade *brigade;
    const mapping *m;
    if (!r->handler || strcmp(r->handler, BARE_HANDLER)) return DECLINED;
    m = mapping_of(conf_of(r)->root, apr_table_get(r->notes, "subbench-uri"));
    if (!m) return HTTP_NOT_FOUND;
    ap_set_content_type(r, "video/mp4");
    ap_set_content_length(r, (apr_off_t)m->len);
    brigade = apr_brigade_create(r->pool, alloc);
    APR_BRIGADE_INSERT_TAIL(brigade, apr_bucket_immortal_create(m->data, m->len, alloc));
    APR_BRIGADE_INSERT_TAIL(brigade, apr_bucket_eos_create(alloc));
    return ap_pass_brigade(r->output_filters, brigade) == APR_SUCCESS ? OK : HTTP_INTERNAL_SERVER_ERROR;
}

/* The measured loop */

static void copy_raw(run *k, request_rec *r)
{
    const mapping *m = mapping_of(conf_of(r)->root, k->uri);
    apr_size_t end, len;
    if (!m) {
        k->bad++;
        return;
    }
    end = k->last < 0 ? m->len : (apr_size_t)k->last + 1;
    len = end - (apr_size_t)k->first;
    if (len > BUFFER_LEN) len = BUFFER_LEN;
    if (k->touch) memcpy(k->buffer, m->data + k->first, k->copied = len);
    k->wanted += len;
    k->status = HTTP_OK;
}

static void sub_request(run *k, request_rec *r)
{
    capture c = {k, 0, 0};
    request_rec *rr = ap_sub_req_lookup_uri(k->uri, r, NULL);
    int returned = OK;
    rr->headers_in = apr_table_copy(rr->pool, r->headers_in);
    apr_table_unset(rr->headers_in, "Range");
    if (k->range) apr_table_setn(rr->headers_in, "Range", k->range);
    ap_add_output_filter_handle(capture_filter, &c, rr, r->connection);
    if (!strcmp(k->mode, "mmap")) {
        rr->handler = BARE_HANDLER;
        rr->status = HTTP_OK;
        apr_table_setn(rr->notes, "subbench-uri", k->uri);
    }
    if (strcmp(k->mode, "none")) returned = ap_run_sub_req(rr);
    k->status = rr->status;
    k->copied = c.copied;
    if (returned != OK || (rr->status != HTTP_OK && rr->status != HTTP_PARTIAL_CONTENT)) k->bad++;
    k->cache_status = k->calls > 1 ? NULL : apr_pstrdup(r->pool, apr_table_get(rr->headers_out, "Cache-Status"));
    ap_destroy_sub_req(rr);
}

static apr_uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (apr_uint64_t)t.tv_sec * 1000000000u + (apr_uint64_t)t.tv_nsec;
}

/* Bytes received over loopback in this network namespace. */
static apr_int64_t loopback_bytes(void)
{
    char line[512];
    long long bytes = -1;
    FILE *f = fopen("/proc/net/dev", "r");
    if (!f) return -1;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, " lo: %lld", &bytes) == 1) break;
    fclose(f);
    return bytes;
}

static int read_query(run *k, request_rec *r)
{
    char *rest, *word, *end;
    for (word = apr_strtok(apr_pstrdup(r->pool, r->args ? r->args : ""), "&", &rest); word; word = apr_strtok(NULL, "&", &rest)) {
        if (!strncmp(word, "mode=", 5)) k->mode = word + 5;
        else if (!strncmp(word, "u=", 2)) k->uri = word + 2;
        else if (!strncmp(word, "r=", 2)) k->range = word + 2;
        else if (!strncmp(word, "n=", 2)) k->calls = atoi(word + 2);
        else if (!strcmp(word, "touch=0")) k->touch = 0;
        else return 0;
    }
    if (k->calls < 1 || k->calls > CALLS_MAX) return 0;
    if (!k->range) return 1;
    k->first = apr_strtoi64(k->range, &end, 10);
    if (*end != '-') return 0;
    k->last = apr_strtoi64(end + 1, NULL, 10);
    k->range = apr_pstrcat(r->pool, "bytes=", k->range, NULL);
    return k->last >= k->first;
}

static void answer(const run *k, request_rec *r, double ns, apr_int64_t loopback)
{
    unsigned char digest[APR_MD5_DIGESTSIZE];
    char hex[2 * APR_MD5_DIGESTSIZE + 1];
    apr_md5(digest, k->buffer, k->copied);
    ap_bin2hex(digest, sizeof digest, hex);
    ap_set_content_type(r, "application/json");
    ap_rprintf(r, "{\"calls\":%d,\"bad\":%d,\"status\":%d,\"wanted\":%" APR_UINT64_T_FMT ",\"crossed\":%" APR_UINT64_T_FMT
                  ",\"copied\":%" APR_SIZE_T_FMT ",\"md5\":\"%s\",\"ns\":%.1f,\"loopback\":%" APR_INT64_T_FMT
                  ",\"pid\":%d,\"cache_status\":\"%s\"}\n",
               k->calls, k->bad, k->status, k->wanted, k->crossed, k->copied, hex, ns, loopback, (int)getpid(),
               k->cache_status ? k->cache_status : "");
}

/* Makes `calls` calls and says how long each took. */
static double slice(run *k, request_rec *r, int calls)
{
    int i, raw = !strcmp(k->mode, "raw");
    apr_uint64_t begin = now_ns();
    for (i = 0; i < calls; i++) {
        if (raw) copy_raw(k, r);
        else sub_request(k, r);
    }
    return (double)(now_ns() - begin) / calls;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int measure(request_rec *r)
{
    run k = {.mode = "none", .uri = "/x.ism", .last = -1, .calls = 1, .touch = 1};
    double slices[SLICES];
    int n = 0, done = 0, calls;
    apr_int64_t loopback;
    if (!r->handler || strcmp(r->handler, "subbench")) return DECLINED;
    if (!read_query(&k, r)) return HTTP_BAD_REQUEST;
    k.buffer = apr_palloc(r->pool, BUFFER_LEN);
    calls = (k.calls + SLICES - 1) / SLICES;
    loopback = loopback_bytes();
    for (; done < k.calls; done += calls) {
        if (calls > k.calls - done) calls = k.calls - done;
        slices[n++] = slice(&k, r, calls);
    }
    loopback = loopback_bytes() - loopback;
    qsort(slices, (size_t)n, sizeof *slices, by_value);
    answer(&k, r, slices[n / 2], loopback);
    return OK;
}

/* Wiring */

static void child_init(apr_pool_t *pool, server_rec *s)
{
    (void)s;
    apr_pool_create(&mappings_pool, pool);
    mappings = apr_hash_make(mappings_pool);
    apr_thread_rwlock_create(&mappings_lock, mappings_pool);
}

static void *create_server_conf(apr_pool_t *pool, server_rec *s)
{
    (void)s;
    return apr_pcalloc(pool, sizeof(server_conf));
}

static void *merge_server_conf(apr_pool_t *pool, void *base, void *add)
{
    (void)pool;
    return ((server_conf *)add)->root ? add : base;
}

static const char *set_root(cmd_parms *cmd, void *dir, const char *value)
{
    server_conf *c = ap_get_module_config(cmd->server->module_config, &subbench_module);
    (void)dir;
    c->root = value;
    return NULL;
}

static const command_rec directives[] = {
    AP_INIT_TAKE1("SubBenchRoot", set_root, NULL, RSRC_CONF, "directory of the files"),
    {NULL},
};

static void register_hooks(apr_pool_t *pool)
{
    /* The bare handler stands ahead of whoever would take a proxied request. */
    static const char *const bare_before[] = {"mod_usp_storage_cache.c", "mod_cache.c", "mod_proxy.c", NULL};
    (void)pool;
    ap_hook_child_init(child_init, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_handler(bare_handler, NULL, bare_before, APR_HOOK_REALLY_FIRST);
    ap_hook_handler(measure, NULL, NULL, APR_HOOK_FIRST);
    capture_filter = ap_register_output_filter("SUBBENCH_CAPTURE", capture_output, NULL, AP_FTYPE_RESOURCE);
}

AP_DECLARE_MODULE(subbench) = {
    STANDARD20_MODULE_STUFF, NULL, NULL, create_server_conf, merge_server_conf, directives, register_hooks,
    AP_MODULE_FLAG_NONE,
};
