"""Certificates and tokens of a cluster that lives as long as its tests."""

import json
import secrets
import subprocess
from pathlib import Path

GROUPS = {
    "admin": ("admin", "system:masters"),
    "controllers": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
    "policies": ("network-policies", "system:masters"),
}
API_PORT = 16443


class Accounts:
    """Who may do what, in files below a folder: certificates of the API server, tokens.csv, a kubeconfig for each."""

    def __init__(self, folder: Path, address: str, nodes: list[str]) -> None:
        """address: the API server's, which pods reach."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._address = folder, address
        users = {**GROUPS, **{node: (f"system:node:{node}", "system:nodes") for node in nodes}}
        tokens = {name: secrets.token_hex(16) for name in users}
        self.tokens_file = folder / "tokens.csv"
        self.tokens_file.write_text(
            "".join(f'{tokens[n]},{user},{n},"{group}"\n' for n, (user, group) in users.items())
        )
        self._certificates()
        for name, token in tokens.items():
            self.kubeconfig(name).write_text(self._kubeconfig(token))

    def kubeconfig(self, name: str) -> Path:
        """Of one of GROUPS, or of a node."""
        return self.folder / f"{name}.kubeconfig"

    def _kubeconfig(self, token: str) -> str:
        cluster = {
            "server": f"https://{self._address}:{API_PORT}",
            "certificate-authority": str(self.folder / "ca.crt"),
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "user"}}],
            "current-context": "tests",
        }
        return json.dumps(document)

    def _certificates(self) -> None:
        names = ["localhost", *(f"kubernetes{rest}" for rest in ("", ".default", ".default.svc"))]
        addresses = ["127.0.0.1", "10.96.0.1", self._address]
        text = ",".join([*(f"DNS:{name}" for name in names), *(f"IP:{address}" for address in addresses)])
        (self.folder / "names").write_text(f"subjectAltName={text}\n")
        self._openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 7 -subj /CN=tests")
        self._openssl("req -newkey rsa:2048 -nodes -keyout api.key -out api.csr -subj /CN=kube-apiserver")
        self._openssl(
            "x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out api.crt -days 7 -extfile names"
        )
        self._openssl("genrsa -out accounts.key 2048")

    def _openssl(self, words: str) -> None:
        subprocess.run(["openssl", *words.split()], cwd=self.folder, check=True, capture_output=True)
