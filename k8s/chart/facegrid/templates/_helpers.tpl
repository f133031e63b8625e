{{/* The name of everything in a release: Helm's usual rule, but a name that is too long is refused, not cut. */}}
{{- define "facegrid.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $full := .Values.fullnameOverride | default (contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name)) -}}
{{- if gt (len $full) 36 -}}
{{- fail (printf "the name %q has %d characters; expected at most 36, because KubeRay and Kubernetes append to it: set fullnameOverride" $full (len $full)) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $full) -}}
{{- fail (printf "the name %q begins with a letter and has lower-case letters, digits and '-' (KubeRay's rule): set fullnameOverride" $full) -}}
{{- end -}}
{{- $full -}}
{{- end -}}

{{/* Labels of pods, by which they are selected, without a component. No version among them: an upgrade of the chart that
changes nothing in a pod does not restart it. KubeRay's own labels (ray.io/…) are never set here: a pod
that has them counts as the operator's, which then deletes it. */}}
{{- define "facegrid.selector" -}}
app.kubernetes.io/part-of: facegrid
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "facegrid.labels" -}}
{{ include "facegrid.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "facegrid.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Where a pod runs: a dict of root and the values of the group. */}}
{{- define "facegrid.scheduling" -}}
{{- with .group.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .group.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .group.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Memory: the request is the limit, so that no pod is killed because another one on its node grew. */}}
{{- define "facegrid.resources" -}}
requests:
  cpu: {{ .cpu | quote }}
  memory: {{ .memory | quote }}
  ephemeral-storage: {{ .scratch | quote }}
limits:
  {{- with .cpuLimit }}
  cpu: {{ . | quote }}
  {{- end }}
  memory: {{ .memory | quote }}
  ephemeral-storage: {{ .scratch | quote }}
{{- end -}}

{{- define "facegrid.scheme" -}}
{{ .Values.gateway.tls.enabled | ternary "https" "http" }}
{{- end -}}

{{- define "facegrid.gatewayPort" -}}
{{ .Values.gateway.tls.enabled | ternary 8443 8080 }}
{{- end -}}

{{- define "facegrid.servicePort" -}}
{{ .Values.gateway.service.port | default (.Values.gateway.tls.enabled | ternary 443 80) }}
{{- end -}}

{{/* A name of the gateways' Service, which their certificate has to have. */}}
{{- define "facegrid.serverName" -}}
{{ include "facegrid.fullname" . }}-gateway.{{ .Release.Namespace }}.svc
{{- end -}}

{{- define "facegrid.url" -}}
{{ include "facegrid.scheme" . }}://{{ include "facegrid.serverName" . }}:{{ include "facegrid.servicePort" . }}
{{- end -}}

{{/* What a JSON schema cannot say. */}}
{{- define "facegrid.check" -}}
{{- range $name, $group := dict "embedder" .Values.embedder "batch" .Values.batch "gateway.autoscaling" .Values.gateway.autoscaling -}}
{{- if gt (int $group.minReplicas) (int $group.maxReplicas) -}}
{{- fail (printf "%s: expected minReplicas <= maxReplicas, got %v and %v" $name $group.minReplicas $group.maxReplicas) -}}
{{- end -}}
{{- end -}}
{{- if not (semverCompare ">=2.53.0" .Values.ray.version) -}}
{{- fail (printf "ray.version: expected 2.53.0 or later (token authentication, probes by HTTP), got %s" .Values.ray.version) -}}
{{- end -}}
{{- end -}}
