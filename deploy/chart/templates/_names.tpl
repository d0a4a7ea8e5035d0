{{- define "kubeshunt.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end -}}

{{/* What Helm adds to every object; the base has the others. */}}
{{- define "kubeshunt.labels" -}}
app.kubernetes.io/component: kube-proxy
app.kubernetes.io/part-of: kubeshunt
{{- end -}}

{{/* The ConfigMap that holds config.conf, if any. */}}
{{- define "kubeshunt.configMap" -}}
{{- if .Values.existingConfigMap }}{{ .Values.existingConfigMap }}{{ else if .Values.configuration }}kubeshunt{{ end -}}
{{- end -}}

{{/* What both containers are called with. */}}
{{- define "kubeshunt.arguments" -}}
- --hostname-override=$(NODE_NAME)
{{- if include "kubeshunt.configMap" . }}
- --config=/var/lib/kube-proxy/config.conf
{{- end }}
{{- with .Values.apiServer }}
- --master={{ . }}
{{- end }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "kubeshunt.environment" -}}
env:
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{- end -}}
