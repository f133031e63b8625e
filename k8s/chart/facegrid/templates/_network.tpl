{{/* A selector of pods of some components: dict of root and components. */}}
{{- define "facegrid.components" -}}
matchLabels: {{- include "facegrid.selector" .root | nindent 2 }}
matchExpressions:
  - {key: app.kubernetes.io/component, operator: In, values: [{{ join ", " .components }}]}
{{- end -}}

{{/* Peers by address. An empty list would be everyone: it is refused by the schema. */}}
{{- define "facegrid.blocks" -}}
{{- range . }}
- ipBlock: {cidr: {{ . | quote }}}
{{- end }}
{{- end -}}

{{- define "facegrid.tcp" -}}
{{- range . }}
- {protocol: TCP, port: {{ . }}}
{{- end }}
{{- end -}}
