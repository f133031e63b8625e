{{/* Pod that runs commands of `facegrid` against the gateways, with a key: dict of root, name, key (Secret's name and key) and
script. */}}
{{- define "facegrid.clientPod" -}}
{{- $authority := and .root.Values.gateway.tls.enabled .root.Values.gateway.tls.caKey -}}
metadata:
  labels: {{- include "facegrid.selector" .root | nindent 4 }}
    app.kubernetes.io/component: job
spec:
  restartPolicy: Never
  serviceAccountName: {{ include "facegrid.fullname" .root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext: {{- include "facegrid.podSecurity" dict | nindent 4 }}
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .name }}
      image: {{ include "facegrid.image" .root }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      command: [/bin/sh, -uc]
      args: [{{ .script | quote }}]
      env:
        - {name: HOME, value: /tmp}
        - {name: FACEGRID_URL, value: {{ include "facegrid.url" .root | quote }}}
        - {name: FACEGRID_KEY_FILE, value: /etc/facegrid/key/{{ .key.keySecretKey }}}
        {{- with $authority }}
        # Whom to believe about the gateways' certificate.
        - {name: FACEGRID_URL_AUTHORITY, value: /etc/facegrid/authority/{{ . }}}
        {{- end }}
        {{- if not .root.Values.gateway.tls.enabled }}
        # The key travels in the clear, as all of the service does then.
        - {name: FACEGRID_URL_INSECURE, value: "true"}
        {{- end }}
      securityContext: {{- include "facegrid.containerSecurity" dict | nindent 8 }}
      resources:
        requests: {cpu: 100m, memory: 512Mi, ephemeral-storage: 64Mi}
        limits: {memory: 512Mi, ephemeral-storage: 64Mi}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: key, mountPath: /etc/facegrid/key, readOnly: true}
        {{- if $authority }}
        - {name: authority, mountPath: /etc/facegrid/authority, readOnly: true}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 64Mi}
    - name: key
      secret: {secretName: {{ .key.keySecretName }}, defaultMode: 288}
    {{- if $authority }}
    - name: authority
      secret:
        secretName: {{ .root.Values.gateway.tls.secretName }}
        defaultMode: 288
        items: [{key: {{ $authority }}, path: {{ $authority }}}]
    {{- end }}
{{- end -}}

{{/* One that fails keeps neither the others from being made nor old ones from being removed; the job fails then. */}}
{{- define "facegrid.snapshotScript" -}}
failed=0
{{- range .galleries }}
facegrid snapshot create {{ . }} --keep-days {{ $.keepDays }} || failed=$?
{{- else }}
facegrid snapshot create --all --keep-days {{ .keepDays }} || failed=$?
{{- end }}
facegrid snapshot delete --expired --yes || failed=$?
exit $failed
{{- end -}}
