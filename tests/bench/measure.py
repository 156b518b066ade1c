"""What is measured, one function a method: sub-requests, requests from outside, memory, system calls, instructions."""
import collections
import hashlib
import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time

from servers import HERE, die_with_parent

CALL_TARGET_NS = 20e6  # one request of mod_subbench lasts about this long
CALLS_MAX = 2000
LOG_DELAY_US = 3000
SENDING = ("write", "writev", "sendto", "sendmsg", "sendfile")


def get(port, path, bytes_range=None, timeout=300):
    """One GET: status, header fields, and length and MD5 of the body."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    fields = {"Host": "bench"}
    if bytes_range:
        fields["Range"] = "bytes=%d-%d" % bytes_range
    client.request("GET", path, headers=fields)
    response = client.getresponse()
    digest, length = hashlib.md5(), 0
    while part := response.read(1 << 20):
        digest.update(part)
        length += len(part)
    client.close()
    return response.status, response.headers, length, digest.hexdigest()


def call(port, mode, path, bytes_range=None, calls=1, touch=True):
    """One request to mod_subbench: its JSON."""
    query = f"/sb?mode={mode}&u={path}&n={calls}"
    if bytes_range:
        query += "&r=%d-%d" % bytes_range
    if not touch:
        query += "&touch=0"
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    client.request("GET", query)
    answer = json.loads(client.getresponse().read())
    client.close()
    if answer["bad"]:
        raise SystemExit(f"bench: {answer['bad']} of {calls} sub-requests failed: {query}: {answer}")
    return answer


def calls_for(ns):
    """How many sub-requests of `ns` each one request makes."""
    return max(1, min(CALLS_MAX, int(CALL_TARGET_NS / ns)))


def inside(server, port, mode, path, bytes_range, calls, touch, repeats):
    """Wall time of a sub-request, as the median and the least of `repeats` requests, and CPU time of the whole server."""
    cpu = server.cpu_ns()
    answers = [call(port, mode, path, bytes_range, calls, touch) for _ in range(repeats)]
    cpu = server.cpu_ns() - cpu
    times = [a["ns"] / 1e3 for a in answers]
    return {"us": statistics.median(times), "least_us": min(times), "cpu_us": cpu / 1e3 / calls / repeats, "calls": calls * repeats}


def counts(server, port, path, bytes_range, calls, repeats=3):
    """Bytes over loopback and context switches of a sub-request.

    What each sub-request costs is in every repetition; the least of them holds least of what is not its own, such as an
    idle connection that is closed meanwhile.
    """
    found = []
    for _ in range(repeats):
        switches = server.switches()
        answer = call(port, "uri", path, bytes_range, calls)
        found.append((answer["loopback"], server.switches() - switches))
    loopback, switches = (min(column) / calls for column in zip(*found))
    return {"loopback": loopback, "switches": switches, "calls": calls}


def burst(work, port, path, file, clients, span=None):
    """Clients that ask at one instant; see burst.c. The slowest first byte and the slowest end, in ms."""
    command = [os.path.join(work, "burst"), str(port), path, file, str(clients), *map(str, span or ())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, preexec_fn=die_with_parent)
    found = json.loads(done.stdout or "{}")
    if done.returncode or found.get("wrong"):
        raise SystemExit(f"bench: {' '.join(command)}: {done.stdout}{done.stderr}")
    return found


def wrk(port, path, bytes_range, clients, secs, keys=()):
    """What wrk says of one request, again and again, or with `keys` of many; see req.lua. A closed connection is no failure yet."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{secs}s", "--timeout", "30s", "-s", f"{HERE}/req.lua"]
    command += [f"http://127.0.0.1:{port}/", "--", path, "%d-%d" % bytes_range if bytes_range else "", *map(str, keys)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=secs + 60, preexec_fn=die_with_parent)
    found = re.search(r"^JSON (\{.*\})", done.stdout, re.M)
    if not found:
        raise SystemExit(f"bench: wrk: {done.stdout[-300:]}{done.stderr[-300:]}")
    result = json.loads(found.group(1).replace("-nan", "0").replace("nan", "0"))
    result["closed"] = result["errors"].pop("read")
    if any(result["errors"].values()) or not result["requests"]:
        raise SystemExit(f"bench: wrk on port {port}, {path}: {result}")
    return result


def outside(server, port, path, bytes_range, clients, secs, keys=()):
    """CPU time that the server spends on 1000 requests from outside, what a request moves over loopback, and what clients see.

    Measured anew where the server closed a connection, as a busy httpd does with those that are idle; never more than twice.
    """
    for _ in range(3):
        cpu, moved = server.cpu_ns(), loopback_bytes()
        result = wrk(port, path, bytes_range, clients, secs, keys)
        cpu, moved = server.cpu_ns() - cpu, loopback_bytes() - moved
        if not result["closed"]:
            return {
                "cpu_ms": cpu / 1e3 / result["requests"], "loopback": moved / result["requests"],
                "per_second": result["requests"] / result["us"] * 1e6, "p50_us": result["p50_us"], "p99_us": result["p99_us"],
            }
        print(f"bench: {server.name} closed {result['closed']} connections, {path}, {clients} clients: once more", file=sys.stderr)
    raise SystemExit(f"bench: {server.name} closes connections, {path}, {clients} clients: {result}")


def loopback_bytes():
    """Bytes received over loopback in this network namespace."""
    with open("/proc/net/dev") as devices:
        return next(int(line.split(":")[1].split()[0]) for line in devices if line.strip().startswith("lo:"))


def memory(server):
    """Memory of all its processes in bytes, what they share counted once (Pss of smaps_rollup), and parts of it."""
    sums = collections.Counter()
    for pid in server.pids():
        with open(f"/proc/{pid}/smaps_rollup") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.startswith("Pss"):
                    sums[name.lower()] += int(value.split()[0]) * 1024
    return dict(sums)


class Tracer:
    """strace on all processes and threads of a server.

    The write to the access log, a request's last call, is held up: so the next request is always there when the server looks
    for it, and how httpd waits for a client is not counted, whoever of the two is faster.
    """

    def __init__(self, server, out):
        self.out = out
        pids = server.pids()
        targets = [word for pid in pids for word in ("-p", str(pid))]
        self.process = subprocess.Popen(
            ["strace", "-f", "-y", "-e", f"inject=write:delay_exit={LOG_DELAY_US}", "-o", out, *targets],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, preexec_fn=die_with_parent,
        )
        for _ in pids:
            line = self.process.stderr.readline()
            if "attached" not in line:
                self.stop()
                raise OSError(f"strace: {line.strip()}")

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=60)


def on_one_connection(port, path, bytes_range, requests):
    """So many requests, one after the other."""
    fields = {"Host": "bench", **({"Range": "bytes=%d-%d" % bytes_range} if bytes_range else {})}
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    for _ in range(requests):
        client.request("GET", path, headers=fields)
        client.getresponse().read()
    client.close()


def system_calls(server, port, path, bytes_range, requests, store, out):
    """System calls per request of one client on one connection; how many of the threads that answer name `store`."""
    try:
        tracer = Tracer(server, out)
    except OSError as error:
        return {"error": str(error)}
    try:
        on_one_connection(port, path, bytes_range, requests)
    finally:
        tracer.stop()
    with open(out, errors="replace") as lines:
        names, store_calls = tally(lines, store)
    os.unlink(out)
    top = {name: round(n / requests, 2) for name, n in names.most_common() if n >= requests / 20}
    return {"per_request": names.total() / requests, "store_calls": store_calls, "requests": requests, "top": top}


def tally(lines, store):
    """Calls by name, and how many of those that the answering threads make name `store`."""
    names, on_store, answering = collections.Counter(), collections.Counter(), set()
    for line in lines:
        thread, _, rest = line.partition(" ")
        found = re.match(r"\s*(\w+)\(", rest)
        if not found:
            continue
        names[found.group(1)] += 1
        on_store[thread] += store in rest
        if found.group(1) in SENDING and "socket:" in rest:
            answering.add(thread)
    return names, sum(on_store[thread] for thread in answering)


CALLGRIND = ["valgrind", "--vgdb=no", "--tool=callgrind", "--zero-before=measure", "--dump-after=measure"]


def instructions(server, port_name, path, bytes_range, hits, rounds=1):
    """Instructions of a warm sub-request: in all, in the module itself, in its handler with all that it calls.

    Each is the median of the rounds: what the module does once a second falls into some of them."""
    folder = os.path.join(server.folder, "callgrind")
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    out = os.path.join(folder, "out")
    try:
        server.start("-X", prefix=[*CALLGRIND, f"--callgrind-out-file={out}"], keep=True)
        for calls in (20, *(hits, 2 * hits) * rounds):
            call(server.ports[port_name], "uri", path, bytes_range, calls, touch=False)
        parts = [read_profile(wait_for_file(f"{out}.{part}"), server.defines["MODULE"]) for part in range(2, 2 + 2 * rounds)]
    except OSError as error:
        return {"error": f"httpd under callgrind: {error}; see {server.folder}/output.log"}
    finally:
        server.stop()
    pairs = list(zip(parts[::2], parts[1::2]))
    return {key: statistics.median((second[key] - first[key]) / hits for first, second in pairs) for key in parts[0]}


def wait_for_file(path, deadline_secs=60):
    """The text of a profile, once its last line is there."""
    end = time.monotonic() + deadline_secs
    while time.monotonic() < end:
        if os.path.exists(path):
            with open(path) as f:
                text = f.read()
            if "\ntotals:" in text:
                return text
        time.sleep(0.1)
    raise SystemExit(f"bench: callgrind wrote no {path}")


def read_profile(text, module):
    """Sums of a callgrind profile: see `instructions`."""
    names, sums = {}, {"all": 0, "own": 0, "handler": 0}
    place = {"ob": "", "fn": "", "cob": ""}
    called = False
    for line in text.splitlines():
        if found := re.match(r"(ob|cob|fn|cfn)=(\(\d+\))(?: (.*))?$", line):
            key, number, name = found.groups()
            kind = key[-2:]
            if name:
                names[kind, number] = name
            place[key] = names[kind, number]
        elif line.startswith("calls="):
            called = True
        elif re.match(r"[+\-*\d]", line):
            cost = int(line.split()[1])
            if called and place["fn"].startswith("ap_run_handler") and (place["cob"] or place["ob"]) == module:
                sums["handler"] += cost
            if not called:
                sums["all"] += cost
                sums["own"] += cost if place["ob"] == module else 0
            called, place["cob"] = False, ""
    return sums
