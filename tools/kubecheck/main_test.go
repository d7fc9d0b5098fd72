package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const manifests = "../../deploy/kubernetes"

func TestManifests(t *testing.T) {
	objects, err := check(manifests)
	if err != nil {
		t.Error(err)
	}
	for _, want := range []string{"Deployment ingest", "Deployment refresher", "Ingress ingest", "Secret wxtoken-nats"} {
		if !strings.Contains(strings.Join(objects, "\n"), want) {
			t.Errorf("%s was not looked at: %q", want, objects)
		}
	}
}

// TestGateway: what kustomization.yaml has as a comment can be taken in.
func TestGateway(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(manifests)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "kustomization.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), "# - gateway.yaml", "- gateway.yaml", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	objects, err := check(dir)
	if err != nil {
		t.Error(err)
	}
	for _, want := range []string{"Deployment gateway", "Service gateway", "PodDisruptionBudget gateway", "NetworkPolicy gateway", "Secret wxtoken-gateway"} {
		if !strings.Contains(strings.Join(objects, "\n"), want) {
			t.Errorf("%s was not looked at: %q", want, objects)
		}
	}
}

// TestFaults breaks the manifests in one place each.
func TestFaults(t *testing.T) {
	for _, row := range []struct{ file, old, new, want string }{
		{"ingest.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFileSystem: true", `unknown field "spec.template.spec.containers[0].securityContext.readOnlyRootFileSystem"`},
		{"ingest.yaml", "replicas: 2", "replicas: two", "replicas"},
		{"refresher.yaml", "memory: 128Mi", "memory: 128 MB", "quantities"},
		{"refresher.yaml", "policy/v1", "policy/v1alpha9", "v1alpha9"},
		{"refresher.yaml", "{name: ops, containerPort: 8081}", "{name: opz, containerPort: 8081}", "NetworkPolicy refresher: no pod with the port ops"},
		{"refresher.yaml", "key: refresher-url", "key: url", `no example of a secret "wxtoken-nats" with the key "url"`},
		{"refresher.yaml", "{key: appsecret,", "{key: secret,", `with the key "secret"`},
		{"ingest.yaml", "{name: wxtoken-settings}", "{name: settings}", `no config map "settings"`},
		{"ingest.yaml", "{name: component, mountPath", "{name: components, mountPath", `no volume "components"`},
		{"ingest.yaml", "  selector: {app.kubernetes.io/name: ingest}", "  selector: {app.kubernetes.io/name: ingress}", "Service ingest: no pod"},
		{"networkpolicy.yaml", "{app.kubernetes.io/name: refresher}", "{app.kubernetes.io/name: refreshers}", "NetworkPolicy refresher selects no pod"},
		{"example/ingress.yaml", "port: {name: http}", "port: {name: https}", `no service "ingest" with a port "https"`},
		{"kustomization.yaml", "configMapGenerator", "configMapGenerators", "configMapGenerators"},
	} {
		t.Run(row.want, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(manifests)); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, row.file)
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			broken := strings.ReplaceAll(string(text), row.old, row.new)
			if broken == string(text) {
				t.Fatalf("%s has no %q", row.file, row.old)
			}
			if err := os.WriteFile(file, []byte(broken), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := check(dir); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("%v", err)
			}
		})
	}
}
