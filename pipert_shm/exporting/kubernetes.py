"""A deployment for Kubernetes: a hub with a service, a stateful set for each host, and what applies the file."""

from __future__ import annotations

import base64
from typing import Any

from pipert_shm.exporting.compose import project_of
from pipert_shm.exporting.deployment import INVITATION, Deployment, Host
from pipert_shm.pipeline_file.text import yaml_of

USER = 10001  # of the image of examples/deploy
Object = dict[str, Any]


def files_of(its: Deployment, image: str) -> dict[str, bytes]:
    """The files, by their paths.

    :param image: of the containers. Its program is `pipert-shm`.
    """
    writer = _Writer(its, image)
    objects = [*writer.secrets(), writer.file(), writer.hub_service(), writer.hub()]
    objects += [writer.agent(host) for host in its.hosts]
    objects.append(writer.runner() if its.runs_here else writer.job())
    head = f"# kubectl apply -f {project_of(its.name)}.yaml. Made by `pipert-shm export kubernetes`."
    head += " It holds private keys: keep it as one.\n" if its.has_tls else "\n"
    return {f"{project_of(its.name)}.yaml": (head + yaml_of(*objects)).encode()}


class _Writer:
    """Writes the objects of one deployment."""

    def __init__(self, its: Deployment, image: str) -> None:
        self._its, self._image = its, image
        self._project = project_of(its.name)

    def _name(self, part: str) -> str:
        return f"{self._project}-{project_of(part)}"

    def _object(self, kind: str, version: str, name: str, **more: Any) -> Object:
        labels = {"app.kubernetes.io/part-of": self._project, "app.kubernetes.io/name": name}
        return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels}, **more}

    # ---- what is mounted -------------------------------------------------------------------------

    def secrets(self) -> list[Object]:
        """Certificates and keys of the hub and of each host."""
        owners = sorted({path.partition("/")[0] for path in self._its.files})
        return [
            self._object("Secret", "v1", self._name(owner), type="Opaque", data=_encoded(self._its.files_of(owner)))
            for owner in owners
        ]

    def file(self) -> Object:
        """The pipeline's file."""
        return self._object("ConfigMap", "v1", self._name("file"), data={"pipeline.yaml": self._its.text})

    # ---- the hub ---------------------------------------------------------------------------------

    def hub_service(self) -> Object:
        """The name by which hosts reach the hub. One with dots is not a service's: it has to lead there from outside."""
        ports = [{"name": "zenoh", "port": self._its.port, "targetPort": self._its.port}]
        name, kind = (self._its.hub, "ClusterIP") if "." not in self._its.hub else (self._name("hub"), "LoadBalancer")
        spec = {"type": kind, "ports": ports, "selector": self._labels(self._name("hub"))}
        return self._object("Service", "v1", name, spec=spec)

    def hub(self) -> Object:
        """The router. It keeps nothing."""
        name = self._name("hub")
        pod = self._pod(name, "hub", self._its.hub_command(), None)
        pod["containers"][0]["ports"] = [{"containerPort": self._its.port}]
        probe = {"tcpSocket": {"port": self._its.port}}
        pod["containers"][0] |= {"readinessProbe": probe, "livenessProbe": {**probe, "periodSeconds": 20}}
        return self._object("Deployment", "apps/v1", name, spec=self._spec(name, pod, strategy={"type": "Recreate"}))

    # ---- hosts -----------------------------------------------------------------------------------

    def agent(self, host: Host) -> Object:
        """An agent, which keeps on a volume what it was told. Its node has the host's labels, or else its name."""
        name = self._name(host.name)
        command = [*self._its.agent_command(host), "--state", "/data/agent", "--end-pipes"]
        pod = self._pod(name, host.name, command, host)
        pod["nodeSelector"] = dict(host.labels) or {"kubernetes.io/hostname": host.name}
        pod["containers"][0]["volumeMounts"].append({"name": "data", "mountPath": "/data"})
        claim = {
            "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
        spec = self._spec(name, pod, serviceName=name, volumeClaimTemplates=[claim])
        return self._object("StatefulSet", "apps/v1", name, spec=spec)

    def runner(self) -> Object:
        """Applies the file, and runs the flows that name no host. It is started again until all agents are there."""
        name = self._name(self._its.applier.name)
        pod = self._with_file(self._pod(name, self._its.applier.name, ["run", "/app/pipeline.yaml"], self._its.applier))
        pod["containers"][0]["volumeMounts"].append({"name": "data", "mountPath": "/data"})
        pod["volumes"].append({"name": "data", "emptyDir": {}})
        return self._object("Deployment", "apps/v1", name, spec=self._spec(name, pod, strategy={"type": "Recreate"}))

    def job(self) -> Object:
        """Applies the file once, when all agents are there."""
        name = self._name("apply")
        pod = self._with_file(self._pod(name, self._its.applier.name, ["run", "/app/pipeline.yaml"], None))
        template = {"metadata": {"labels": self._labels(name)}, "spec": {**pod, "restartPolicy": "OnFailure"}}
        return self._object("Job", "batch/v1", name, spec={"backoffLimit": 60, "template": template})

    # ---- pods ------------------------------------------------------------------------------------

    def _labels(self, name: str) -> dict[str, str]:
        return {"app.kubernetes.io/part-of": self._project, "app.kubernetes.io/name": name}

    def _spec(self, name: str, pod: Object, **more: Any) -> Object:
        labels = self._labels(name)
        template = {"metadata": {"labels": labels}, "spec": pod}
        return {"replicas": 1, "selector": {"matchLabels": labels}, "template": template, **more}

    def _pod(self, name: str, owner: str, command: list[str], host: Host | None) -> Object:
        """:param owner: of the certificate."""
        volumes: list[Object] = [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}]
        mounts: list[Object] = [{"name": "tmp", "mountPath": "/tmp"}]
        container: Object = {
            "name": name,
            "image": self._image,
            "args": command,
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": mounts,
        }
        if host is not None:
            volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{host.shm >> 20}Mi"}})
            mounts.append({"name": "shm", "mountPath": "/dev/shm"})
            container["resources"] = {"requests": {"memory": f"{host.memory >> 20}Mi"}}
        if self._its.has_tls:
            volumes.append({"name": "certificates", "secret": {"secretName": self._name(owner), "defaultMode": 0o440}})
            mounts.append({"name": "certificates", "mountPath": INVITATION, "readOnly": True})
        return {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": self._its.stop,
            "securityContext": {
                "runAsNonRoot": True,
                **dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), USER),
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": volumes,
        }

    def _with_file(self, pod: Object) -> Object:
        pod["volumes"].append({"name": "file", "configMap": {"name": self._name("file")}})
        mount = {"name": "file", "mountPath": "/app/pipeline.yaml", "subPath": "pipeline.yaml"}
        pod["containers"][0]["volumeMounts"].append(mount)
        return pod


def _encoded(files: dict[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(data).decode() for name, data in files.items()}
