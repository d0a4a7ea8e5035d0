#!/usr/bin/env bash
# Two servers on different nodes behind a Service, asked by name and by every kind of address it has: from a pod, and from
# the machine that kind runs on, which is outside of the cluster. Ends at the first question that is not answered by both.
set -euo pipefail

readonly namespace=connectivity
readonly image=registry.k8s.io/e2e-test-images/agnhost:2.53

k() { kubectl --namespace "$namespace" "$@"; }

kubectl create namespace "$namespace" --dry-run=client --output yaml | kubectl apply -f -
k apply -f - <<YAML
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: $image
        args: [netexec, --http-port=8080, --udp-port=8081]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: udp, protocol: UDP, port: 81, targetPort: 8081}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  containers: [{name: client, image: $image, args: [pause]}]
YAML
k rollout status daemonset/web --timeout 3m
k wait pod/client --for condition=Ready --timeout 3m

servers=$(k get pods --selector app=web --output name | wc -l)

# both WHERE COMMAND...: all servers answer what the command asks, within a minute. The command prints who answered.
both() {
  local where=$1 seen=""
  shift
  for _ in $(seq 60); do
    seen=$(printf '%s\n%s' "$seen" "$("$@" || true)" | sed '/^$/d' | sort -u)
    if [ "$(grep -c . <<<"$seen")" -ge "$servers" ]; then
      echo "$where: all $servers servers answer"
      return
    fi
  done
  echo "$where: only these answer: $seen" >&2
  exit 1
}

inside() { k exec client -- /agnhost connect "$@"; }
http() { k exec client -- curl --silent --max-time 2 "http://$1/hostname"; echo; }
udp() { k exec client -- sh -c "echo hostname | nc -u -w 1 $1 $2"; echo; }
outside() { curl --silent --max-time 2 "http://$1/hostname"; echo; }

cluster_ip=$(k get service web --output jsonpath='{.spec.clusterIP}')
node_port=$(k get service web --output jsonpath='{.spec.ports[?(@.name=="http")].nodePort}')

inside "$cluster_ip:80" --timeout 5s
both "by its name" http "web.$namespace.svc.cluster.local"
both "ClusterIP" http "$cluster_ip"
both "ClusterIP, UDP" udp "$cluster_ip" 81
for node in $(kubectl get nodes --output jsonpath='{.items[*].status.addresses[?(@.type=="InternalIP")].address}'); do
  [[ $node == *:* ]] && continue
  both "NodePort at $node, from a pod" http "$node:$node_port"
  both "NodePort at $node, from outside" outside "$node:$node_port"
done
