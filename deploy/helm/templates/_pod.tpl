{{/* Labels of one process; (dict "root" $ "process" "receiver") */}}
{{- define "curie.labels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .process }}
{{- end }}

{{/* Labels that do not change over versions, to select by */}}
{{- define "curie.metadata" -}}
name: {{ .root.Release.Name }}-{{ .process }}
labels:
  {{- include "curie.labels" . | nindent 2 }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- end }}

{{- define "curie.catalogue" -}}
{{- if .Values.catalogue.url -}}
{{ .Values.catalogue.url }}
{{- else -}}
postgresql+psycopg://curie:{{ required "give postgresql.password, or catalogue.url of a database of yours" .Values.postgresql.password }}@{{ .Release.Name }}-catalogue/curie
{{- end -}}
{{- end }}

{{- define "curie.broker" -}}
{{ .Values.broker.url | default (printf "redis://%s-broker:6379/0" .Release.Name) }}
{{- end }}

{{/* curie.toml: what was given, and what the chart knows better */}}
{{- define "curie.toml" -}}
{{- $known := dict "appliance" (dict "data_dir" "/var/lib/curie")
                   "catalogue" (dict "url" (include "curie.catalogue" .))
                   "broker" (dict "url" (include "curie.broker" .))
                   "console" (dict "host" "0.0.0.0") -}}
{{- $all := mustMergeOverwrite (deepCopy .Values.settings) $known -}}
{{- range $key := list "sources" "destinations" "routes" "worklists" "messages" -}}
{{- if not (get $all $key) }}{{ $all = omit $all $key }}{{ end -}}
{{- end -}}
{{ toToml $all }}
{{- end }}

{{/* Of every container, ours and others' */}}
{{- define "curie.confined" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{/* The pod of one process of curie */}}
{{- define "curie.pod" -}}
{{- $v := .root.Values -}}
{{- $own := get $v .process -}}
metadata:
  labels:
    {{- include "curie.labels" . | nindent 4 }}
    curie/inside: "true"
  annotations:
    checksum/settings: {{ include "curie.toml" .root | sha256sum }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: 30
  {{- with $v.image.pullSecret }}
  imagePullSecrets: [{ name: {{ . }} }]
  {{- end }}
  {{- with $own.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $own.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: { type: RuntimeDefault }
  containers:
    - name: {{ .process }}
      image: "{{ $v.image.repository }}:{{ $v.image.tag | default .root.Chart.AppVersion }}{{ with $v.image.digest }}@{{ . }}{{ end }}"
      args: [run, {{ .process }}]
      {{- include "curie.confined" . | nindent 6 }}
      {{- with .ports }}
      ports: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if eq .process "console" }}
      startupProbe: &health
        httpGet: { path: /healthz, port: console }
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 30
      {{- else }}
      # It starts a Python each time: seldom. A catalogue that is away is no reason to end a process.
      startupProbe: &health
        exec: { command: [python, /usr/local/lib/curie/healthy.py, {{ .process }}] }
        periodSeconds: 10
        timeoutSeconds: 10
        failureThreshold: 30
      {{- end }}
      livenessProbe:
        <<: *health
        periodSeconds: 30
        failureThreshold: 4
      resources:
        {{- $gpus := eq .process "worker" | ternary $v.worker.gpus 0 | int }}
        {{- if $gpus }}
        {{- toYaml (mustMergeOverwrite (deepCopy $own.resources) (dict "limits" (dict "nvidia.com/gpu" $gpus))) | nindent 8 }}
        {{- else }}
        {{- toYaml $own.resources | nindent 8 }}
        {{- end }}
      volumeMounts:
        - { name: settings, mountPath: /etc/curie/curie.toml, subPath: curie.toml, readOnly: true }
        - { name: data, mountPath: /var/lib/curie }
        - { name: tmp, mountPath: /tmp }
        {{- range $n, $mount := $v.mounts }}
        {{- if has $.process $mount.processes }}
        - { name: mount-{{ $n }}, mountPath: {{ $mount.path }}, readOnly: true }
        {{- end }}
        {{- end }}
  volumes:
    - name: settings
      secret: { secretName: {{ .root.Release.Name }}-settings, defaultMode: 0440 }
    - name: data
      persistentVolumeClaim: { claimName: {{ $v.storage.existingClaim | default (printf "%s-data" .root.Release.Name) }} }
    - name: tmp
      emptyDir: { medium: Memory, sizeLimit: 512Mi }
    {{- range $n, $mount := $v.mounts }}
    {{- if has $.process $mount.processes }}
    - name: mount-{{ $n }}
      secret: { secretName: {{ $mount.secret }}, defaultMode: 0440 }
    {{- end }}
    {{- end }}
{{- end }}
