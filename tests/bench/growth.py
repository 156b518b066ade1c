"""What a hit costs by the number of entries, in the module and in other caches: a server for each number.

The module's stores are many.py's; the others are filled by requests. Asked are ten keys again and again, and keys at random of
all there are.
"""
import hashlib
import os
import random

import cold
import many
import measure
import peers
import servers
import ways

ROUNDS = 1 if ways.QUICK else 4
CLIENTS, SECS = 16, 1
# What requests were on their way when a slice of filling ended is asked for again.
OVERLAP = 64
# The recipe's tree of seven inodes an entry takes too long to fill.
TUNED_MOST = 1000
MODULE_PATH, PATH = "/many/%d.ism", "/0/0/%d/x.ism"
PORTS = {"module": "OUTSIDE", "nginx": "CACHE", "Varnish": "CLIENTS", "tuned": "CACHE"}


class Growth:
    """A server for each way and number of entries, and what was found out."""

    def __init__(self, work, folder, stores, storage):
        self.content, self.stores, self.module_storage = folder, stores, storage
        self.storage = cold.SlowStorage(work, folder)
        shared = {"CONTENT": folder, "SUBBENCH": os.path.join(work, "mod_subbench.so"), "STORAGE": self.storage.port}
        self.servers = {("module", count): server for count, server in stores.servers.items()}
        for count in many.COUNTS:
            self.servers["nginx", count] = peers.Nginx(stores.folder, f"nginx-{count}", shared)
            self.servers["Varnish", count] = peers.Varnish(stores.folder, f"varnish-{count}", shared)
            if count <= TUNED_MOST:
                tuned = {**shared, "TUNED": ""}
                self.servers["tuned", count] = servers.Server(
                    stores.folder, f"tuned-{count}", "recipe", ["FRONT", "CACHE"], tuned, ["cache", "lock"]
                )

    def run(self, say):
        self.storage.start()
        for (way, count), server in self.servers.items():
            say(f"fills {way} with {count} entries" if way != "module" else f"starts over {count} entries")
            if not server.process:
                server.start(keep=way == "module")
            if way != "module":
                self.fill(server.ports[PORTS[way]], count)
            self.check(way, count)
        asked = self.asked()
        rows = [row for number in range(ROUNDS) for row in self.round(number, say)]
        if self.asked() != asked:
            raise SystemExit(f"bench: storage was asked {self.asked() - asked} times while hits of many entries were measured")
        return {"rows": rows, "memory": self.memory()}

    def fill(self, port, count):
        number = 0
        while number < count:
            came = measure.wrk(port, PATH, None, CLIENTS, SECS, (count, number))["next"]
            number = came if came >= count else max(number + 1, came - OVERLAP)

    def check(self, way, count):
        """Holds the bytes of some entries against the file's."""
        with open(os.path.join(self.content, "x.ism"), "rb") as file:
            expected = hashlib.md5(file.read()).hexdigest()
        port = self.servers[way, count].ports[PORTS[way]]
        for number in (0, count // 2, count - 1):
            status, fields, length, md5 = measure.get(port, path(way) % number)
            is_hit = way != "module" or "; hit" in fields.get("Cache-Status", "")
            if status != 200 or md5 != expected or not is_hit:
                raise SystemExit(f"bench: {way}, entry {number} of {count}: wrong answer: {status}, {length} bytes, {fields.items()}")

    def asked(self):
        """Requests to the storages so far."""
        with open(self.storage.log) as log:
            return self.module_storage.answered() + sum(line.startswith("+") for line in log)

    def round(self, number, say):
        say(f"hits by the number of entries, round {number + 1} of {ROUNDS}")
        cells = [(*key, keys) for key in self.servers for keys in ("ten", "any")]
        for way, count, keys in random.sample(cells, len(cells)):
            server, among = self.servers[way, count], min(count, many.HOT) if keys == "ten" else count
            values = measure.outside(server, server.ports[PORTS[way]], path(way), None, CLIENTS, SECS, (among,))
            yield {"round": number, "way": way, "count": count, "keys": keys, **values}

    def memory(self):
        return [{"way": way, "count": count, **measure.memory(server)} for (way, count), server in self.servers.items()]

    def stop(self):
        for server in self.servers.values():
            server.stop()
        self.storage.stop()


def path(way):
    return MODULE_PATH if way == "module" else PATH
