"""The contenders: which server each needs, and the command line that moves a file or a tree.

Each is used as its users would on their own machines, with what its manual recommends for speed
where that is an ordinary option.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Callable
from urllib.parse import quote

from .servers import BASELINE_PORT, CADDY_PORT, KINDS, NGINX_PORT, QUIRE_PORT, RAW_PORT, RSYNC_PORT, SSH_PORT, Site
from .targets import BASELINE, OURS
from .workspace import walk

AES_128_SSH = "aes128-gcm@openssh.com"
AES_128_TLS = ("--tls13-ciphers", "TLS_AES_128_GCM_SHA256")
CURL_PARALLEL = "100"
# rclone's own advice for many small files is more transfers than its default of 4.
RCLONE_TRANSFERS = "32"
# qcp must be told what the network gives, in bytes per second and milliseconds: a window of 2 MB,
# which quinn fills here without overrunning the socket's buffer.
QCP_NETWORK = ("--rx", "1G", "--tx", "1G", "--rtt", "2")
QCP_PARALLEL = "16"


@dataclasses.dataclass(frozen=True)
class Job:
    """One thing to move. `remote` is the served directory as the server sees it."""

    operation: str  # "get" or "put"
    item: Path  # the local original: what is served for a get, what is sent for a put
    remote: Path
    target: Path  # where a get puts it
    host: str

    @property
    def name(self) -> str:
        return self.item.name

    @property
    def is_tree(self) -> bool:
        return self.item.is_dir()

    def get(self) -> bool:
        return self.operation == "get"


Command = Callable[[Site, Job], "list[str]"]


@dataclasses.dataclass(frozen=True)
class Contender:
    """A tool, or one way of using it."""

    title: str
    server: str
    programs: tuple[str, ...]
    command: Command
    can: tuple[str, ...] = ("get", "put")
    trees: bool = True

    def missing(self, site: Site) -> str | None:
        """Why it can't run here, or nothing."""
        for program in (*self.programs, *KINDS[self.server].programs):
            if site.program(program) is None:
                state = "not built" if program.startswith("quire") else "not installed"
                return f"{program}: {state}"
        return None


def quire(port: int, *parts: str) -> Command:
    def command(site: Site, job: Job) -> list[str]:
        recursive = ["-r"] if job.is_tree else []
        base = [site.program("/".join((*parts, "quire"))), job.operation, "-q",
                "--state-dir", str(site.state.joinpath(*parts, "quire")), *recursive]
        far = f"{job.host}:{port}/"
        return [*base, far + job.name, str(job.target)] if job.get() else [*base, str(job.item), far]
    return command


def curl(port: int, *ciphers: str) -> Command:
    def command(site: Site, job: Job) -> list[str]:
        certificate, _ = site.certificate()
        base = ["curl", "-sSf", "--cacert", str(certificate), "--tlsv1.3", *ciphers]
        url = f"https://{job.host}:{port}/"
        if not job.is_tree:
            return [*base, "--http1.1", "-o", str(job.target / job.name), url + job.name]
        return [*base, "--http2", "--parallel", "--parallel-max", CURL_PARALLEL, "--create-dirs",
                "-K", str(curl_list(site, job, url))]
    return command


def curl_list(site: Site, job: Job, url: str) -> Path:
    """The list of URLs, which curl has no way to learn from the server."""
    lines = []
    for file in walk(job.item):
        name = file.relative_to(job.item.parent)
        lines.append(f'url = "{url}{quote(str(name))}"\noutput = "{job.target / name}"\n')
    path = site.state / "curl.list"
    path.write_text("".join(lines))
    return path


def scp(*options: str) -> Command:
    def command(site: Site, job: Job) -> list[str]:
        base = ["scp", "-q", "-p", "-F", str(site.ssh_config()), *options, *(["-r"] if job.is_tree else [])]
        if job.get():
            return [*base, f"{job.host}:{job.remote / job.name}", str(job.target)]
        return [*base, str(job.item), f"{job.host}:{job.remote}"]
    return command


def sftp(site: Site, job: Job) -> list[str]:
    recursive = "-r " if job.is_tree else ""
    batch = site.state / "sftp.batch"
    if job.get():
        batch.write_text(f"get -p {recursive}{job.remote / job.name} {job.target}/\n")
    else:
        batch.write_text(f"put -p {recursive}{job.item} {job.remote}/\n")
    return ["sftp", "-q", "-F", str(site.ssh_config()), "-c", AES_128_SSH, "-b", str(batch), job.host]


def rsync_daemon(_site: Site, job: Job) -> list[str]:
    far = f"rsync://{job.host}:{RSYNC_PORT}/files/"
    return ["rsync", "-a", far + job.name, f"{job.target}/"] if job.get() else ["rsync", "-a", str(job.item), far]


def rsync_ssh(site: Site, job: Job) -> list[str]:
    base = ["rsync", "-a", "-e", f"ssh -F {site.ssh_config()}"]
    if job.get():
        return [*base, f"{job.host}:{job.remote / job.name}", f"{job.target}/"]
    return [*base, str(job.item), f"{job.host}:{job.remote}/"]


def tar_ssh(site: Site, job: Job) -> list[str]:
    ssh = f"ssh -F {site.ssh_config()} {job.host}"
    here, there = job.item.parent, job.remote
    name, target = shlex.quote(job.name), shlex.quote(str(job.target))
    if job.get():
        pipe = f"{ssh} tar -C {there} -cf - {name} | tar -C {target} -xf -"
    else:
        pipe = f"tar -C {here} -cf - {name} | {ssh} tar -C {there} -xf -"
    return ["bash", "-o", "pipefail", "-c", pipe]


def rclone(site: Site, job: Job) -> list[str]:
    site.ssh_config()
    far = f":sftp:{job.remote / job.name}"
    near = str(job.item if not job.get() else job.target / job.name)
    verb = "copy" if job.is_tree else "copyto"
    return ["rclone", verb, *((far, near) if job.get() else (near, far)), "--config", "/dev/null",
            "--sftp-host", job.host, "--sftp-port", str(SSH_PORT), "--sftp-user", "root",
            "--sftp-key-file", str(site.state / "user_key"), "--sftp-known-hosts-file", str(site.state / "known_hosts"),
            "--transfers", RCLONE_TRANSFERS, "--checkers", RCLONE_TRANSFERS,
            # Else it starts a process on the server for each file, to compare digests.
            "--ignore-checksum"]


def raw(_site: Site, job: Job) -> list[str]:
    script = Path(__file__).with_name("raw_tcp.py")
    return [sys.executable, "-I", "-S", str(script), "get", job.host, str(RAW_PORT), job.name,
            str(job.target / job.name)]


def qcp(site: Site, job: Job) -> list[str]:
    config = str(site.ssh_config())
    base = ["qcp", "-q", "-p", "-S", "-F", "-S", config, "--ssh-config", config, *QCP_NETWORK,
            *(["-r", "-j", QCP_PARALLEL] if job.is_tree else [])]
    if job.get():
        return [*base, f"{job.host}:{job.remote / job.name}", f"{job.target}/"]
    return [*base, str(job.item), f"{job.host}:{job.remote}/"]


SSH = ("ssh",)
CONTENDERS = {
    OURS: Contender("quire", "quire", ("quire",), quire(QUIRE_PORT)),
    BASELINE: Contender("quire, the other build", BASELINE, (f"{BASELINE}/quire",), quire(BASELINE_PORT, BASELINE)),
    "nginx": Contender("nginx + curl, TLS 1.3, AES-128", "nginx", ("curl",), curl(NGINX_PORT, *AES_128_TLS), ("get",)),
    "nginx-default": Contender("nginx + curl, TLS 1.3, default cipher", "nginx", ("curl",), curl(NGINX_PORT), ("get",)),
    "caddy": Contender("Caddy + curl, TLS 1.3", "caddy", ("curl",), curl(CADDY_PORT), ("get",)),
    "scp-aes": Contender("scp, aes128-gcm", "sshd", ("scp", *SSH), scp("-c", AES_128_SSH)),
    "scp": Contender("scp, default cipher", "sshd", ("scp", *SSH), scp()),
    "sftp": Contender("sftp, aes128-gcm", "sshd", ("sftp", *SSH), sftp),
    "rsync-daemon": Contender("rsync daemon, no encryption", "rsync", ("rsync",), rsync_daemon),
    "rsync-ssh": Contender("rsync over ssh", "sshd", ("rsync", *SSH), rsync_ssh),
    "tar-ssh": Contender("tar over ssh", "sshd", ("tar", "bash", *SSH), tar_ssh),
    "rclone": Contender("rclone, sftp", "sshd", ("rclone",), rclone),
    "qcp": Contender("qcp", "sshd", ("qcp", *SSH), qcp),
    "raw": Contender("bare TCP (sendfile, no encryption)", "raw", (), raw, ("get",), trees=False),
}
