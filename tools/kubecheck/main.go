// Command kubecheck builds deploy/kubernetes as kubectl does, and checks every object against
// Kubernetes's own types: unknown fields and values of another type are faults. Then it checks that
// all objects exist to which others refer.
//
//	go -C tools/kubecheck run . ../../deploy/kubernetes
//
// Exit codes: 0 no fault, 1 faults, which are printed.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: kubecheck <directory with kustomization.yaml>")
		os.Exit(1)
	}
	objects, err := check(os.Args[1])
	for _, name := range objects {
		fmt.Println("ok", name)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// check returns the names of the checked objects, and all their faults.
func check(dir string) (objects []string, err error) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, fmt.Errorf("build: %w", err)
	}
	text, err := built.AsYaml()
	if err != nil {
		return nil, fmt.Errorf("build: %w", err)
	}
	var all cluster
	err = all.decode("kustomization", text)
	examples, globErr := filepath.Glob(filepath.Join(dir, "example", "*.yaml"))
	err = errors.Join(err, globErr)
	for _, file := range examples {
		text, readErr := os.ReadFile(file)
		err = errors.Join(err, readErr, all.decode(file, text))
	}
	return all.names, errors.Join(err, all.references())
}

// cluster is all checked objects, by kind.
type cluster struct {
	names       []string
	deployments []*appsv1.Deployment
	services    []*corev1.Service
	budgets     []*policyv1.PodDisruptionBudget
	policies    []*networkingv1.NetworkPolicy
	ingresses   []*networkingv1.Ingress
	accounts    []string
	configMaps  []string
	secrets     map[string][]string // keys by name
}

// decode reads documents strictly. Kinds that are not Kubernetes's own are named but not checked.
func (c *cluster) decode(from string, text []byte) (err error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme} {
		err = errors.Join(err, add(scheme))
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		document, readErr := reader.Read()
		if readErr != nil {
			if readErr != io.EOF {
				err = errors.Join(err, fmt.Errorf("%s: %w", from, readErr))
			}
			return err
		}
		asJSON, decodeErr := utilyaml.ToJSON(document)
		if kind, kindErr := json.DefaultMetaFactory.Interpret(asJSON); kindErr == nil && !scheme.IsGroupRegistered(kind.Group) {
			c.names = append(c.names, kind.Kind+" (not of Kubernetes itself, unchecked)")
			continue
		}
		// From the YAML: in the JSON a duplicate field would not be seen.
		object, kind, strictErr := decoder.Decode(document, nil, nil)
		if decodeErr = errors.Join(decodeErr, strictErr); decodeErr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", from, decodeErr))
			continue
		}
		c.add(object)
		if named, ok := object.(metav1.Object); ok {
			c.names = append(c.names, kind.Kind+" "+named.GetName())
		}
	}
}

func (c *cluster) add(object runtime.Object) {
	switch o := object.(type) {
	case *appsv1.Deployment:
		c.deployments = append(c.deployments, o)
	case *corev1.Service:
		c.services = append(c.services, o)
	case *policyv1.PodDisruptionBudget:
		c.budgets = append(c.budgets, o)
	case *networkingv1.NetworkPolicy:
		c.policies = append(c.policies, o)
	case *networkingv1.Ingress:
		c.ingresses = append(c.ingresses, o)
	case *corev1.ServiceAccount:
		c.accounts = append(c.accounts, o.Name)
	case *corev1.ConfigMap:
		c.configMaps = append(c.configMaps, o.Name)
	case *corev1.Secret:
		if c.secrets == nil {
			c.secrets = map[string][]string{}
		}
		for key := range o.StringData {
			c.secrets[o.Name] = append(c.secrets[o.Name], key)
		}
	}
}

// references returns faults for references to missing objects.
func (c *cluster) references() (err error) {
	fault := func(format string, args ...any) { err = errors.Join(err, fmt.Errorf(format, args...)) }
	secret := func(of, name, key string) {
		if !slices.Contains(c.secrets[name], key) {
			fault("%s: no example of a secret %q with the key %q", of, name, key)
		}
	}
	for _, d := range c.deployments {
		pod := d.Spec.Template
		of := "Deployment " + d.Name
		if !c.selects(of, d.Spec.Selector, fault) || !matches(d.Spec.Selector, pod.Labels) {
			fault("%s: its selector does not select its own pods", of)
		}
		if !slices.Contains(c.accounts, pod.Spec.ServiceAccountName) {
			fault("%s: no service account %q", of, pod.Spec.ServiceAccountName)
		}
		for _, spread := range pod.Spec.TopologySpreadConstraints {
			if !matches(spread.LabelSelector, pod.Labels) {
				fault("%s: topologySpreadConstraints select other pods", of)
			}
		}
		for _, v := range pod.Spec.Volumes {
			if v.Secret == nil {
				continue
			}
			for _, item := range v.Secret.Items {
				secret(of, v.Secret.SecretName, item.Key)
			}
		}
		for _, container := range pod.Spec.Containers {
			for _, m := range container.VolumeMounts {
				if !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name }) {
					fault("%s: no volume %q", of, m.Name)
				}
			}
			for _, e := range container.EnvFrom {
				if e.ConfigMapRef != nil && !slices.Contains(c.configMaps, e.ConfigMapRef.Name) {
					fault("%s: no config map %q", of, e.ConfigMapRef.Name)
				}
			}
			for _, e := range container.Env {
				if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
					secret(of, e.ValueFrom.SecretKeyRef.Name, e.ValueFrom.SecretKeyRef.Key)
				}
			}
			for _, probe := range []*corev1.Probe{container.StartupProbe, container.LivenessProbe, container.ReadinessProbe} {
				if probe == nil || probe.HTTPGet == nil || !hasPort(pod.Spec, probe.HTTPGet.Port) {
					fault("%s: a probe is missing, or asks a port that its container does not name", of)
				}
			}
		}
	}
	for _, s := range c.services {
		for _, port := range s.Spec.Ports {
			c.reaches("Service "+s.Name, &metav1.LabelSelector{MatchLabels: s.Spec.Selector}, port.TargetPort, fault)
		}
	}
	for _, b := range c.budgets {
		c.selects("PodDisruptionBudget "+b.Name, b.Spec.Selector, fault)
	}
	for _, p := range c.policies {
		c.selects("NetworkPolicy "+p.Name, &p.Spec.PodSelector, fault)
		for _, rule := range p.Spec.Ingress {
			for _, port := range rule.Ports {
				c.reaches("NetworkPolicy "+p.Name, &p.Spec.PodSelector, *port.Port, fault)
			}
		}
	}
	for _, i := range c.ingresses {
		for _, rule := range i.Spec.Rules {
			for _, path := range rule.HTTP.Paths {
				to := path.Backend.Service
				if !slices.ContainsFunc(c.services, func(s *corev1.Service) bool {
					return s.Name == to.Name && slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == to.Port.Name })
				}) {
					fault("Ingress %s: no service %q with a port %q", i.Name, to.Name, to.Port.Name)
				}
			}
		}
	}
	return err
}

// selects reports whether a selector selects the pods of a Deployment, and adds a fault if not.
func (c *cluster) selects(of string, selector *metav1.LabelSelector, fault func(string, ...any)) bool {
	found := slices.ContainsFunc(c.deployments, func(d *appsv1.Deployment) bool { return matches(selector, d.Spec.Template.Labels) })
	if !found {
		fault("%s selects no pod", of)
	}
	return found
}

// reaches adds a fault if none of the selected pods has the port.
func (c *cluster) reaches(of string, selector *metav1.LabelSelector, port intstr.IntOrString, fault func(string, ...any)) {
	if !slices.ContainsFunc(c.deployments, func(d *appsv1.Deployment) bool {
		return matches(selector, d.Spec.Template.Labels) && hasPort(d.Spec.Template.Spec, port)
	}) {
		fault("%s: no pod with the port %s", of, port.String())
	}
}

func matches(selector *metav1.LabelSelector, have map[string]string) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && !s.Empty() && s.Matches(labels.Set(have))
}

func hasPort(pod corev1.PodSpec, port intstr.IntOrString) bool {
	return slices.ContainsFunc(pod.Containers, func(c corev1.Container) bool {
		return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool {
			return p.Name == port.StrVal || port.StrVal == "" && p.ContainerPort == port.IntVal
		})
	})
}
