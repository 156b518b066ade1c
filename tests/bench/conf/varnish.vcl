# Varnish: every object for a week, under its path alone. It keeps its log in memory and writes none of accesses by itself.
vcl 4.1;

backend storage {
  .host = "127.0.0.1";
  .port = "${STORAGE}";
  .max_connections = 1000;
}

sub vcl_recv {
  set req.url = regsub(req.url, "\?.*$", "");
  set req.http.Host = "storage";
  return (hash);
}

sub vcl_backend_response {
  set beresp.ttl = 7d;
}
