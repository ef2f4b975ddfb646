package build

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Stages of Knative's manifests. Each may be applied when the one before is ready.
const (
	StageTypes = "1-types.yaml" // custom resource definitions
	StageCore  = "2-core.yaml"  // namespace, roles, configuration
	StageRun   = "3-run.yaml"   // webhooks and deployments
	StageAfter = "4-after.yaml" // objects that the webhook must admit
)

// Manifests returns the folder with Knative's manifests, one file for each stage, made from the YAML of its modules if they are
// not in the cache. Images of Knative's commands are named by image.
func (c Cache) Manifests(ctx context.Context, p Part, image func(command string) string) (string, error) {
	bin, err := c.Folder(p)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(c.Dir, "manifests", filepath.Base(bin)+"-"+manifestsVersion)
	if _, err := os.Stat(filepath.Join(dir, StageAfter)); err == nil {
		return dir, nil
	}
	m := moduleDirs{ctx: ctx, dir: filepath.Join(c.Tools, p.Name)}
	for _, stage := range []string{StageTypes, StageCore, StageRun, StageAfter} { // the last file says that all are there
		var out bytes.Buffer
		for _, doc := range m.stage(stage) {
			if doc = adapt(doc, image); doc != nil {
				text, err := yaml.Marshal(doc)
				if err != nil {
					return "", err
				}
				fmt.Fprintf(&out, "---\n%s", text)
			}
		}
		if m.err != nil {
			return "", fmt.Errorf("assembling Knative's manifests: %w", m.err)
		}
		if err := write(filepath.Join(dir, stage), out.Bytes(), 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// manifestsVersion changes when adapt does.
const manifestsVersion = "2"

// moduleDirs reads YAML out of modules. The first error stays.
type moduleDirs struct {
	ctx context.Context
	dir string
	err error
}

// stage returns the objects of a stage. Zip files of modules hold no symbolic links, so what serving's config links to is
// read from the modules that it links to.
func (m *moduleDirs) stage(name string) []object {
	serving, networking, caching := m.config(servingModule), m.config("knative.dev/networking"), m.config("knative.dev/caching")
	switch name {
	case StageTypes:
		all := m.read(serving, "core/300-resources/*.yaml")
		return slices.Concat(all, m.read(networking, "certificate.yaml", "domain-claim.yaml", "ingress.yaml", "serverlessservice.yaml"),
			m.read(caching, "image.yaml"))
	case StageCore:
		all := m.read(serving, "core/100-namespace.yaml", "core/200-roles/*.yaml", "core/200-serviceaccount.yaml", "core/configmaps/*.yaml")
		return append(all, m.read(networking, "config-network.yaml")...)
	case StageRun:
		return m.read(serving, "core/webhooks/*.yaml", "core/deployments/activator.yaml", "core/deployments/autoscaler.yaml",
			"core/deployments/controller.yaml", "core/deployments/webhook.yaml")
	default:
		return m.read(serving, "core/999-cache.yaml", "core/300-knativecertificate.yaml")
	}
}

func (m *moduleDirs) config(module string) string {
	if m.err != nil {
		return ""
	}
	dir, err := moduleDir(m.ctx, m.dir, module)
	m.err = err
	return filepath.Join(dir, "config")
}

// Module returns the folder with the sources of a module that a part is built from.
func (c Cache) Module(ctx context.Context, p Part, module string) (string, error) {
	return moduleDir(ctx, filepath.Join(c.Tools, p.Name), module)
}

func moduleDir(ctx context.Context, dir, module string) (string, error) {
	out, err := goOutput(ctx, dir, nil, "list", "-m", "-f", "{{.Dir}}", module)
	return strings.TrimSpace(out), err
}

func (m *moduleDirs) read(dir string, patterns ...string) []object {
	var all []object
	for _, pattern := range patterns {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if m.err == nil && (err != nil || len(files) == 0) {
			m.err = fmt.Errorf("%s has no %s", dir, pattern)
		}
		for _, file := range files {
			objects, err := parse(file)
			if m.err == nil && err != nil {
				m.err = fmt.Errorf("%s: %w", file, err)
			}
			all = append(all, objects...)
		}
	}
	return all
}

// An object is one document of YAML.
type object map[string]any

var separator = regexp.MustCompile(`(?m)^---.*$`)

func parse(file string) ([]object, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []object
	for _, doc := range separator.Split(string(text), -1) {
		var o object
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			return nil, err
		}
		if len(o) > 0 {
			all = append(all, o)
		}
	}
	return all, nil
}
