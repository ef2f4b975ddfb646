package build

import "runtime"

// A Part is a group of binaries that are built from one module of test/cluster/tools.
type Part struct {
	// Name is the folder of the module.
	Name string
	// Binaries are built in this order.
	Binaries []Binary
	// Tags are the build tags.
	Tags string
	// LinkFlags are passed to the linker beside -s -w.
	LinkFlags string
	// Cgo says that the C compiler is needed.
	Cgo bool
}

// A Binary is one command of a part.
type Binary struct {
	// Name is the file that it becomes.
	Name string
	// Package is its import path; "." is the part's own main package.
	Package string
}

const (
	kubernetesVersion = "v1.36.3" // as in tools/k8s/go.mod; a test compares them
	servingModule     = "knative.dev/serving"
)

// Parts returns everything that a tier of the cluster is made of, the slowest first.
func Parts() []Part {
	const version = "k8s.io/component-base/version."
	return []Part{
		{
			Name:     "k8s",
			Binaries: commands("k8s.io/kubernetes/cmd/", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"),
			// Without a version the server calls itself v0.0.0-master, which Knative refuses.
			LinkFlags: "-X " + version + "gitVersion=" + kubernetesVersion + " -X " + version + "gitMajor=1 -X " + version + "gitMinor=36" +
				" -X " + version + "gitTreeState=clean -X " + version + "gitCommit=module",
		},
		{Name: "knative", Binaries: commands(servingModule+"/cmd/", KnativeImages()...)},
		{Name: "containerd", Binaries: commands("github.com/containerd/containerd/v2/cmd/", "containerd", "containerd-shim-runc-v2", "ctr")},
		{Name: "coredns", Binaries: []Binary{{Name: "coredns", Package: "."}}},
		{Name: "etcd", Binaries: []Binary{{Name: "etcd", Package: "go.etcd.io/etcd/server/v3"}}},
		// Knative's pods ask for the seccomp profile RuntimeDefault.
		{Name: "runc", Binaries: []Binary{{Name: "runc", Package: "github.com/opencontainers/runc"}}, Tags: "seccomp", Cgo: true},
		{Name: "cni", Binaries: commands("github.com/containernetworking/plugins/plugins/", "main/bridge", "main/loopback", "ipam/host-local")},
	}
}

// KnativeImages returns the commands of Knative Serving that run as pods.
func KnativeImages() []string {
	return []string{"queue", "webhook", "autoscaler", "controller", "activator"}
}

func commands(prefix string, names ...string) []Binary {
	all := make([]Binary, len(names))
	for i, n := range names {
		all[i] = Binary{Name: base(n), Package: prefix + n}
	}
	return all
}

func base(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[i+1:]
		}
	}
	return path
}

// settings are what a build depends on beside its sources.
func (p Part) settings() string {
	s := runtime.Version() + " " + runtime.GOARCH + " " + p.Tags + " " + p.LinkFlags
	for _, b := range p.Binaries {
		s += " " + b.Name + "=" + b.Package
	}
	return s
}
