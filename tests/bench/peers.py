"""Other caches, each as good as its configuration makes it: nginx, with slices and without, and Varnish in memory.

They are what servers.Server is to the benchmark; what stands in ${} in their configuration in conf/ is put in here.
"""
import grp
import os
import pwd
import re
import shutil
import subprocess

from servers import HERE, Process, Server, run_user

NGINX_PORTS = ["CACHE", "SLICE", "STATIC"]
VARNISH_MEMORY = "3G"


class Nginx(Process):
    """One nginx of two workers."""

    def __init__(self, work, name, defines):
        super().__init__(work, name, NGINX_PORTS, ["whole", "slices", "temp"])
        self.defines = defines

    def command(self, *options):
        user = ""
        if os.geteuid() == 0:
            found = pwd.getpwnam(run_user())
            user = f"user {found.pw_name} {grp.getgrgid(found.pw_gid).gr_name};"
        conf = write_conf("nginx.conf", self.folder, {**self.defines, **self.ports, "WORK": self.folder, "USER": user})
        return [find("nginx"), "-p", self.folder, "-e", os.path.join(self.folder, "error.log"), "-c", conf, *options]


class Varnish(Process):
    """One varnishd, whose objects are in memory, and its log too where there is a tmpfs."""

    def __init__(self, work, name, defines):
        super().__init__(work, name, ["CLIENTS"])
        self.defines = defines
        self.log = os.path.join("/dev/shm" if os.access("/dev/shm", os.W_OK) else self.folder, f"usc-varnish-{self.ports['CLIENTS']}")

    def command(self, *options):
        vcl = write_conf("varnish.vcl", self.folder, self.defines)
        return [
            find("varnishd"), "-F", "-j", "none", "-n", self.log, "-a", f"127.0.0.1:{self.ports['CLIENTS']}", "-T", "none", "-f", vcl,
            "-s", f"malloc,{VARNISH_MEMORY}", "-p", "thread_pools=2", "-p", "thread_pool_min=64", *options,
        ]

    def stop(self):
        super().stop()
        shutil.rmtree(self.log, ignore_errors=True)


class Together:
    """Servers that answer a request together: the cost of all of them counts. Who asks, asks the first."""

    def __init__(self, *servers):
        self.servers, self.ports = servers, servers[0].ports

    def cpu_ns(self):
        return sum(server.cpu_ns() for server in self.servers)

    def switches(self):
        return sum(server.switches() for server in self.servers)


def make(work, shared):
    """nginx, Varnish, and an httpd as origin in front of each, by name."""
    nginx, varnish = Nginx(work, "nginx", shared), Varnish(work, "varnish", shared)
    front = Server(work, "front", "front", ["NGINX", "NGINX_SLICE", "VARNISH"], {**shared, **nginx.ports, **varnish.ports})
    return {"nginx": nginx, "varnish": varnish, "front": front}


def versions():
    """What the peers say they are."""
    nginx = subprocess.run([find("nginx"), "-v"], capture_output=True, text=True).stderr
    varnish = subprocess.run([find("varnishd"), "-V"], capture_output=True, text=True).stderr
    return [nginx.strip().rpartition(": ")[2], varnish.splitlines()[0].split(" revision")[0].replace("varnishd (", "")]


def find(name):
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if not path:
        raise SystemExit(f"bench: no {name} found")
    return path


def write_conf(name, folder, values):
    """conf/`name` with its values, in `folder`: its path."""
    with open(os.path.join(HERE, "conf", name)) as template:
        text = re.sub(r"\$\{(\w+)\}", lambda found: str(values[found.group(1)]), template.read())
    path = os.path.join(folder, name)
    with open(path, "w") as out:
        out.write(text)
    return path
