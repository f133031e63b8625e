{{/* Pods of one component on nodes of their own: dict of root, component and kind (required or preferred). */}}
{{- define "facegrid.apart" -}}
{{- if eq .kind "required" -}}
requiredDuringSchedulingIgnoredDuringExecution:
  - topologyKey: kubernetes.io/hostname
    labelSelector: {{- include "facegrid.apartSelector" . | nindent 6 }}
{{- else -}}
preferredDuringSchedulingIgnoredDuringExecution:
  - weight: 100
    podAffinityTerm:
      topologyKey: kubernetes.io/hostname
      labelSelector: {{- include "facegrid.apartSelector" . | nindent 8 }}
{{- end -}}
{{- end -}}

{{- define "facegrid.apartSelector" -}}
matchLabels: {{- include "facegrid.selector" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Spec of a PersistentVolumeClaim: size and className. */}}
{{- define "facegrid.claim" -}}
accessModes: [ReadWriteOnce]
{{- with .className }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests: {storage: {{ .size }}}
{{- end -}}
