package admission_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/limpet-project/limpet/config"
	"github.com/limpet-project/limpet/knative/policy"
)

const deploy = "../../../deploy"

// kinds are the types that the manifests are decoded into.
func kinds() map[string]any {
	return map[string]any{
		"v1/Namespace": &corev1.Namespace{}, "v1/ServiceAccount": &corev1.ServiceAccount{}, "v1/ConfigMap": &corev1.ConfigMap{},
		"v1/Service": &corev1.Service{}, "v1/Secret": &corev1.Secret{}, "apps/v1/Deployment": &appsv1.Deployment{},
		"rbac.authorization.k8s.io/v1/ClusterRole": &rbacv1.ClusterRole{}, "rbac.authorization.k8s.io/v1/Role": &rbacv1.Role{},
		"rbac.authorization.k8s.io/v1/ClusterRoleBinding":                  &rbacv1.ClusterRoleBinding{},
		"rbac.authorization.k8s.io/v1/RoleBinding":                         &rbacv1.RoleBinding{},
		"policy/v1/PodDisruptionBudget":                                    &policyv1.PodDisruptionBudget{},
		"networking.k8s.io/v1/NetworkPolicy":                               &networkingv1.NetworkPolicy{},
		"admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy":        &admissionv1.ValidatingAdmissionPolicy{},
		"admissionregistration.k8s.io/v1/ValidatingAdmissionPolicyBinding": &admissionv1.ValidatingAdmissionPolicyBinding{},
		"kustomize.config.k8s.io/v1beta1/Kustomization":                    &kustomization{},
	}
}

// kustomization has the fields of a Kustomization that are used.
type kustomization struct {
	metav1.TypeMeta    `json:",inline"`
	Resources          []string    `json:"resources"`
	ConfigMapGenerator []generator `json:"configMapGenerator"`
	Patches            []struct {
		Path   string            `json:"path"`
		Target map[string]string `json:"target"`
	} `json:"patches"`
}

type generator struct {
	Name      string   `json:"name"`
	Namespace string   `json:"namespace"`
	Behavior  string   `json:"behavior"`
	Files     []string `json:"files"`
	Options   struct {
		Labels                map[string]string `json:"labels"`
		DisableNameSuffixHash bool              `json:"disableNameSuffixHash"`
	} `json:"options"`
}

// decode reads the objects of a manifest into their types; what a type does not know fails the test.
func decode(t *testing.T, file string) []any {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var objects []any
	for _, document := range strings.Split(string(text), "\n---\n") {
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(document), &meta); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		object, ok := kinds()[meta.APIVersion+"/"+meta.Kind]
		if !ok {
			t.Fatalf("%s: no type for %s %s", file, meta.APIVersion, meta.Kind)
		}
		if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
			t.Errorf("%s: %s: %v", file, meta.Kind, err)
		}
		objects = append(objects, object)
	}
	return objects
}

// first returns the first object of a type in a manifest.
func first[T any](t *testing.T, file string) T {
	t.Helper()
	for _, object := range decode(t, filepath.Join(deploy, file)) {
		if o, ok := object.(T); ok {
			return o
		}
	}
	var none T
	t.Fatalf("%s has no %T", file, none)
	return none
}

// manifests lists the YAML files of deploy/.
func manifests(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(deploy, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Ext(name) == ".yaml" {
			files = append(files, name)
		}
		return err
	})
	if err != nil || len(files) < 10 {
		t.Fatalf("found %q, %v, want the manifests of deploy/", files, err)
	}
	return files
}

func TestEveryManifestIsOfItsType(t *testing.T) {
	for _, file := range manifests(t) {
		switch filepath.Base(file) {
		case "limpet.yaml", "password.yaml", "remove.yaml": // no objects; they have tests of their own
			continue
		}
		for _, object := range decode(t, file) {
			if o, ok := object.(metav1.Object); ok && o.GetName() == "" {
				t.Errorf("%s: a %T without a name", file, object)
			}
		}
	}
}

func TestEveryFileIsUsed(t *testing.T) {
	used := map[string]bool{} // the patches of Serving's own, to begin with
	for _, patch := range []string{"deployment.yaml", "remove.yaml"} {
		used[filepath.Join(deploy, "activator", patch)] = true
	}
	for _, dir := range []string{"activator", "base", "knative", "knative-redis", "redis"} {
		dir = filepath.Join(deploy, dir)
		k := decode(t, filepath.Join(dir, "kustomization.yaml"))[0].(*kustomization)
		names := slices.Clone(k.Resources)
		for _, g := range k.ConfigMapGenerator {
			names = append(names, g.Files...)
		}
		for _, p := range k.Patches {
			names = append(names, p.Path)
		}
		for _, name := range names {
			used[filepath.Join(dir, name)] = true
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				t.Errorf("%s: %v", dir, err)
			}
		}
	}
	for _, file := range manifests(t) {
		base := filepath.Base(file)
		if !used[file] && base != "kustomization.yaml" && !strings.HasSuffix(base, ".example.yaml") {
			t.Errorf("%s is in no kustomization", file)
		}
	}
}

func TestThePasswordIsAddedToTheKeys(t *testing.T) {
	text, err := os.ReadFile(deploy + "/knative-redis/password.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var patch []struct {
		Op    string                  `json:"op"`
		Path  string                  `json:"path"`
		Value corev1.VolumeProjection `json:"value"`
	}
	if err := yaml.UnmarshalStrict(text, &patch); err != nil {
		t.Fatal(err)
	}
	d := first[*appsv1.Deployment](t, "knative/deployment.yaml")
	if patch[0].Path != "/spec/template/spec/volumes/0/projected/sources/-" || d.Spec.Template.Spec.Volumes[0].Projected == nil {
		t.Errorf("the patch goes to %s, want the sources of the first volume of %s", patch[0].Path, d.Name)
	}
	secret := first[*corev1.Secret](t, "redis/password.example.yaml")
	if s := patch[0].Value.Secret; s.Name != secret.Name || secret.StringData[s.Items[0].Key] == "" {
		t.Errorf("the password is key %s of Secret %s, want one of %s", s.Items[0].Key, s.Name, secret.Name)
	}
}

// gateway returns the configuration of a kustomization.
func gateway(t *testing.T, dir string) *config.Config {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(deploy, dir, "limpet.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse("limpet.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheConfigurationFitsTheDeployment(t *testing.T) {
	d := first[*appsv1.Deployment](t, "knative/deployment.yaml")
	pod := d.Spec.Template.Spec
	ports := make(map[string]int32)
	for _, p := range pod.Containers[0].Ports {
		ports[p.Name] = p.ContainerPort
	}
	files := make(map[string]bool)
	for _, s := range pod.Volumes[0].Projected.Sources {
		if s.Secret != nil {
			for _, item := range s.Secret.Items {
				files[item.Path] = true
			}
		}
	}
	for _, dir := range []string{"knative", "knative-redis"} {
		c := gateway(t, dir)
		want := map[string]int32{"admin": port(t, c.Admin.Address)}
		for _, l := range c.Listeners {
			want[l.Name] = port(t, l.Address)
			if (l.TLS != nil) != strings.HasSuffix(l.Name, "-tls") {
				t.Errorf("%s: listener %s has TLS %t", dir, l.Name, l.TLS != nil)
			}
		}
		if diff := cmp.Diff(want, ports); diff != "" {
			t.Errorf("%s: ports of limpet.yaml and of the container (-want +got):\n%s", dir, diff)
		}
		if !files[string(c.Secrets.DigestFile)] || !files[string(c.Secrets.TokenKeysFile)] {
			t.Errorf("%s: the keys %s and %s are not mounted: %v", dir, c.Secrets.DigestFile, c.Secrets.TokenKeysFile, files)
		}
		ends := time.Duration(c.Shutdown.Delay + c.Shutdown.Drain)
		if grace := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second; grace < ends+5*time.Second {
			t.Errorf("%s: the pod is given %v to end, want more than delay and drain, %v", dir, grace, ends)
		}
	}
}

func port(t *testing.T, address string) int32 {
	t.Helper()
	var s corev1.ServicePort
	if err := yaml.Unmarshal([]byte("port: "+strings.TrimPrefix(address, ":")), &s); err != nil {
		t.Fatal(err)
	}
	return s.Port
}

func TestTheStoreIsTheOnlyDifference(t *testing.T) {
	alone, err := os.ReadFile(deploy + "/knative/limpet.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shared, err := os.ReadFile(deploy + "/knative-redis/limpet.yaml")
	if err != nil {
		t.Fatal(err)
	}
	before, store, _ := strings.Cut(string(shared), "store:\n")
	_, after, _ := strings.Cut(store, "secrets:\n")
	if diff := cmp.Diff(string(alone), before+"secrets:\n"+after); diff != "" {
		t.Errorf("limpet.yaml without and with a store (-want +got):\n%s", diff)
	}
	r := gateway(t, "knative-redis").Store.Redis
	var services []string
	for _, object := range decode(t, deploy+"/redis/redis.yaml") {
		if s, ok := object.(*corev1.Service); ok {
			services = append(services, s.Name+"."+s.Namespace+".svc:6379")
		}
	}
	if r == nil || !slices.Equal(r.Addresses, services) {
		t.Errorf("the store is %+v, want Redis at %q", r, services)
	}
}

func TestServicesLeadToListeners(t *testing.T) {
	pod := first[*appsv1.Deployment](t, "knative/deployment.yaml").Spec.Template
	want := map[string]map[int32]string{
		"limpet": {80: "external", 443: "external-tls"}, "limpet-local": {80: "local", 443: "local-tls"},
	}
	got := make(map[string]map[int32]string)
	for _, object := range decode(t, deploy+"/knative/service.yaml") {
		s := object.(*corev1.Service)
		got[s.Name] = make(map[int32]string)
		for _, p := range s.Spec.Ports {
			got[s.Name][p.Port] = p.TargetPort.StrVal
		}
		for key, value := range s.Spec.Selector {
			if pod.Labels[key] != value {
				t.Errorf("Service %s selects %s=%s, which the pods are not", s.Name, key, value)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Services (-want +got):\n%s", diff)
	}
}

func TestTheExampleOfConfigLimpetIsTheDefault(t *testing.T) {
	cm := first[*corev1.ConfigMap](t, "knative/config-limpet.yaml")
	d, err := policy.ParseDefaults(cm)
	if err != nil {
		t.Fatal(err)
	}
	p, err := d.Policy(nil)
	if err != nil || p.Session.Mode != "hash" || p.Revision.Mode != "proportional" {
		t.Errorf("without a store the policy is %+v, %v, want modes that remember nothing", p, err)
	}
	example := &corev1.ConfigMap{}
	if err := yaml.UnmarshalStrict([]byte(cm.Data["_example"]), &example.Data); err != nil {
		t.Fatal(err)
	}
	if len(example.Data) != 6 {
		t.Errorf("the example has %d keys, want all 6", len(example.Data))
	}
	shown, err := policy.ParseDefaults(example)
	if err != nil {
		t.Fatal(err)
	}
	got, err := shown.Policy(nil)
	if err != nil {
		t.Fatal(err)
	}
	want, err := policy.Defaults{}.Policy(nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || shown.DrainTimeout() != (policy.Defaults{}).DrainTimeout() {
		t.Errorf("the example (-want +got):\n%s", diff)
	}
}

// TestPodsAreConfined holds the pods against the strictest of Kubernetes' pod security standards, and a little more.
func TestPodsAreConfined(t *testing.T) {
	for _, file := range []string{"knative/deployment.yaml", "redis/redis.yaml"} {
		pod := first[*appsv1.Deployment](t, file).Spec.Template.Spec
		s, c := pod.SecurityContext, pod.Containers[0].SecurityContext
		if s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: the pod's security context is %+v", file, s)
		}
		if *c.AllowPrivilegeEscalation || !*c.ReadOnlyRootFilesystem || !slices.Equal(c.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("%s: the container's security context is %+v", file, c)
		}
		if pod.Containers[0].Resources.Limits.Memory().IsZero() {
			t.Errorf("%s: the container has no limit of memory", file)
		}
	}
}

func TestRolesAllowNoMoreThanIsNamed(t *testing.T) {
	writes := map[string][]string{"ingresses/status": {"update", "patch"}, "events": {"create", "patch"}, "leases": {"create", "update"}}
	for _, object := range decode(t, deploy+"/knative/rbac.yaml") {
		var rules []rbacv1.PolicyRule
		switch o := object.(type) {
		case *rbacv1.ClusterRole:
			rules = o.Rules
		case *rbacv1.Role:
			rules = o.Rules
		}
		for _, rule := range rules {
			for _, verb := range rule.Verbs {
				if slices.Contains([]string{"get", "list", "watch"}, verb) {
					continue
				}
				for _, resource := range rule.Resources {
					if !slices.Contains(writes[resource], verb) {
						t.Errorf("the role may %s %s, want only %v", verb, resource, writes)
					}
				}
			}
			if slices.Contains(rule.Resources, "*") || slices.Contains(rule.APIGroups, "*") {
				t.Errorf("the role has a wildcard: %+v", rule)
			}
		}
	}
}
