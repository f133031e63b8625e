{{/* Pod template of the head: dict of root and scaled (whether the autoscaler's container will be added). */}}
{{- define "facegrid.headPod" -}}
{{- $values := .root.Values.ray.head -}}
metadata:
  labels: {{- include "facegrid.selector" .root | nindent 4 }}
    app.kubernetes.io/component: head
  {{- with $values.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  # With an autoscaler KubeRay binds its rights to this account; the head itself gets no token of it.
  serviceAccountName: {{ include "facegrid.fullname" .root }}-head
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext: {{- include "facegrid.podSecurity" dict | nindent 4 }}
  terminationGracePeriodSeconds: 30
  {{- with include "facegrid.scheduling" (dict "root" .root "group" $values) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: ray-head
      image: {{ include "facegrid.image" .root }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      securityContext: {{- include "facegrid.containerSecurity" dict | nindent 8 }}
      resources: {{- include "facegrid.resources" $values.resources | nindent 8 }}
      env: {{- include "facegrid.rayEnv" .root | nindent 8 }}
      ports:
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        - {name: metrics, containerPort: 6384}
      {{- include "facegrid.rayProbes" . | nindent 6 }}
      volumeMounts: {{- include "facegrid.scratchMounts" . | nindent 8 }}
  volumes: {{- include "facegrid.scratchVolumes" (dict "scratch" $values.resources.scratch "objectStoreMiB" $values.objectStoreMiB) | nindent 4 }}
    {{- if .scaled }}
    - name: kubernetes-api
      projected:
        defaultMode: 288
        sources:
          - serviceAccountToken: {path: token, expirationSeconds: 3600}
          - configMap:
              name: kube-root-ca.crt
              items: [{key: ca.crt, path: ca.crt}]
          - downwardAPI:
              items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]
    {{- end }}
{{- end -}}

{{/* Pod template of a worker group: dict of root, group (its values) and component. */}}
{{- define "facegrid.workerPod" -}}
metadata:
  labels: {{- include "facegrid.selector" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  {{- with .group.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "facegrid.fullname" .root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext: {{- include "facegrid.podSecurity" dict | nindent 4 }}
  terminationGracePeriodSeconds: 60
  {{- with include "facegrid.scheduling" (dict "root" .root "group" (include "facegrid.tolerateGpus" .group | fromYaml)) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with include "facegrid.modelsInit" .root }}
  initContainers: {{- . | nindent 4 }}
  {{- end }}
  containers:
    - name: ray-worker
      image: {{ include "facegrid.workerImage" . }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      securityContext: {{- include "facegrid.containerSecurity" dict | nindent 8 }}
      resources: {{- include "facegrid.resources" .group.resources | nindent 8 }}
          {{- with .group.gpus }}
          nvidia.com/gpu: {{ . }}
          {{- end }}
      env: {{- include "facegrid.rayEnv" .root | nindent 8 }}
        {{- with include "facegrid.s3Env" .root | trim }}
        {{- . | nindent 8 }}
        {{- end }}
      ports:
        - {name: metrics, containerPort: 6384}
      {{- include "facegrid.rayProbes" . | nindent 6 }}
      volumeMounts: {{- include "facegrid.scratchMounts" . | nindent 8 }}
        {{- with include "facegrid.sharedMounts" .root | trim }}
        {{- . | nindent 8 }}
        {{- end }}
  volumes: {{- include "facegrid.scratchVolumes" (dict "scratch" .group.resources.scratch "objectStoreMiB" .group.objectStoreMiB) | nindent 4 }}
    {{- with include "facegrid.sharedVolumes" .root | trim }}
    {{- . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* The values of a group, and with GPUs a toleration of their nodes' taint. */}}
{{- define "facegrid.tolerateGpus" -}}
{{- $group := deepCopy . -}}
{{- if .gpus -}}
{{- $_ := set $group "tolerations" (append .tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule")) -}}
{{- end -}}
{{- toYaml $group -}}
{{- end -}}

{{- define "facegrid.workerImage" -}}
{{- if .group.gpus -}}
{{ .root.Values.image.repository }}:{{ .group.gpuTag | default (printf "%s-gpu" (.root.Values.image.tag | default .root.Chart.AppVersion)) }}
{{- else -}}
{{ include "facegrid.image" .root }}
{{- end -}}
{{- end -}}
