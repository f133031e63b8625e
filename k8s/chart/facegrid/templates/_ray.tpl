{{/* The Secret with the Ray token. Unless one is named, KubeRay makes it: named like the RayCluster, key auth_token. */}}
{{- define "facegrid.rayTokenSecret" -}}
{{ .Values.ray.auth.secretName | default (include "facegrid.fullname" .) }}
{{- end -}}

{{- define "facegrid.headAddress" -}}
{{ include "facegrid.fullname" . }}-head-svc:6379
{{- end -}}

{{/* Environment of every container that is a Ray node. */}}
{{- define "facegrid.rayEnv" -}}
- name: HOME
  value: /home/facegrid
- name: RAY_USAGE_STATS_ENABLED
  value: "0"
# Ray would run its workers, which are our shard hosts and gateways, at nice 15.
- name: RAY_worker_niceness
  value: "0"
# A node outlives a head that is away for so long; Ray's 60 s are shorter than a move of the head to another node.
- name: RAY_gcs_rpc_server_reconnect_timeout_s
  value: {{ .Values.ray.reconnectSeconds | quote }}
{{- end -}}

{{/* Environment of the pods that the operator did not make: how they join. In its own pods it sets the token itself. */}}
{{- define "facegrid.joinEnv" -}}
- name: RAY_AUTH_MODE
  value: token
- name: RAY_AUTH_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ include "facegrid.rayTokenSecret" .root }}
      key: auth_token
- name: GRID_HEAD
  value: {{ include "facegrid.headAddress" .root }}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: NODE_CPUS
  value: {{ .group.rayCpus | default 0 | quote }}
- name: OBJECT_STORE_BYTES
  value: {{ mul .group.objectStoreMiB 1048576 | quote }}
{{- end -}}

{{/* How long `facegrid-node leave` may take: it ends before the pod is killed. */}}
{{- define "facegrid.leaveEnv" -}}
- name: LEAVE_SECONDS
  value: {{ sub (int .terminationGraceSeconds) 10 | quote }}
{{- end -}}

{{/* `ray start` of a pod that KubeRay makes: all ports fixed, so that NetworkPolicies can name them. */}}
{{- define "facegrid.rayStartParams" -}}
node-manager-port: "6380"
object-manager-port: "6381"
runtime-env-agent-port: "6382"
dashboard-agent-grpc-port: "6383"
dashboard-agent-listen-port: "52365"
metrics-export-port: "6384"
min-worker-port: "20000"
max-worker-port: "20999"
object-store-memory: {{ mul .objectStoreMiB 1048576 | quote }}
{{- end -}}

{{/* Ports that Ray nodes of a release use among each other. */}}
{{- define "facegrid.rayPorts" -}}
- {protocol: TCP, port: 6380, endPort: 6384}
- {protocol: TCP, port: 52365}
- {protocol: TCP, port: 20000, endPort: 20999}
{{- end -}}

{{/* The probe that KubeRay would put in itself from Ray 2.53 on: the node's agent answers, without a token. */}}
{{- define "facegrid.rayProbes" -}}
startupProbe:
  httpGet: {path: /api/healthz, port: 52365}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /api/healthz, port: 52365}
  periodSeconds: 10
  timeoutSeconds: 5
  # Ten minutes: a node that does not reach the head for a while is better than one that begins again.
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /api/healthz, port: 52365}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}

{{/* Places to write to under a read-only root: dict of root and group. */}}
{{- define "facegrid.scratchMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
- {name: user, mountPath: /home/facegrid}
{{- end -}}

{{- define "facegrid.scratchVolumes" -}}
- name: tmp
  emptyDir: {sizeLimit: {{ .scratch | quote }}}
# Ray's object store. It counts as memory of the pod.
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ printf "%dMi" (int (add .objectStoreMiB 64)) | quote }}}
- name: user
  emptyDir: {sizeLimit: 256Mi}
{{- end -}}

{{/* "true" if Ray's autoscaler runs: a group of workers has room to grow. */}}
{{- define "facegrid.isScaled" -}}
{{- range list .Values.embedder .Values.batch -}}
{{- if gt (int .maxReplicas) (int .minReplicas) -}}true{{- break -}}{{- end -}}
{{- end -}}
{{- end -}}
