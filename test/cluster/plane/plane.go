// Package plane is what runs in the sandbox of a test cluster: the Kubernetes control plane, a node and Knative Serving, with their
// certificates, configuration, flags and order of start.
//
// It promises that Boot returns only when everything of the tier answers, or with a reason that names what did not. It does not
// restart what ends later. Start with [Boot].
package plane

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/limpet-project/limpet/test/cluster/build"
	"github.com/limpet-project/limpet/test/cluster/image"
	"github.com/limpet-project/limpet/test/cluster/slot"
)

// A Tier is how much of a cluster runs. Each holds the ones before it.
type Tier int

const (
	// Control is etcd, API server, controller manager and scheduler: enough for controllers, no pods.
	Control Tier = iota
	// Node adds containerd, kubelet, kube-proxy, CNI, CoreDNS and an image registry.
	Node
	// Knative adds Knative Serving without an ingress: requests go to the activator.
	Knative
)

var tierNames = []string{"control", "node", "knative"}

// String returns the tier's name.
func (t Tier) String() string {
	if t < 0 || int(t) >= len(tierNames) {
		return fmt.Sprintf("Tier(%d)", int(t))
	}
	return tierNames[t]
}

// ParseTier returns the tier of a name.
func ParseTier(name string) (Tier, error) {
	for i, n := range tierNames {
		if n == name {
			return Tier(i), nil
		}
	}
	return 0, fmt.Errorf("tier %q: want control, node or knative", name)
}

// Binaries are the folders and files that a tier runs.
type Binaries struct {
	// Path lists the folders of the components and of kubectl.
	Path []string
	// CNI is the folder of the network plugins.
	CNI string
	// Runc is the file of the container runtime.
	Runc string
}

// A Config says what to boot. The keeper makes it outside, Boot reads it inside.
type Config struct {
	Tier     Tier
	Binaries Binaries
	// Pause and CoreDNS are references of images.
	Pause, CoreDNS string
	// Images are imported before the node is ready, Later ones while Knative's objects are applied.
	Images, Later []image.Image
	// Manifests is the folder of Knative's manifests.
	Manifests string
}

// A scope is what the templates and flags of one cluster are filled with.
type scope struct {
	Config
	Slot slot.Slot
	Node string
}

func (s scope) pki(file string) string { return s.Slot.State("pki", file) }

func (s scope) kubeconfig(user string) string { return s.Slot.State(user + ".conf") }

// Locate returns the binaries of the parts in a cache.
func Locate(c build.Cache) (Binaries, error) {
	var b Binaries
	for _, p := range build.Parts() {
		dir, err := c.Folder(p)
		if err != nil {
			return b, err
		}
		switch p.Name {
		case "cni":
			b.CNI = dir
		case "runc":
			b.Runc = filepath.Join(dir, "runc")
			b.Path = append(b.Path, dir)
		case "k8s", "containerd", "etcd":
			b.Path = append(b.Path, dir)
		}
	}
	return b, nil
}

// ReadConfig returns what the running cluster of a slot was booted with.
func ReadConfig(s slot.Slot) (Config, error) {
	var spec struct{ Boot Config }
	text, err := os.ReadFile(s.State("spec.json"))
	if err == nil {
		err = json.Unmarshal(text, &spec)
	}
	if err != nil {
		return Config{}, fmt.Errorf("slot %d is not up: %w", s.Number, err)
	}
	return spec.Boot, nil
}
