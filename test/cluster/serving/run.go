package serving

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/limpet-project/limpet/test/cluster"
	"github.com/limpet-project/limpet/test/cluster/ingress"
)

// list returns the names of the tests of a binary.
func list(ctx context.Context, binary string) ([]string, error) {
	out, err := exec.CommandContext(ctx, binary, "-test.list", "^Test").Output()
	if err != nil {
		return nil, fmt.Errorf("listing the tests of %s: %w", binary, err)
	}
	return strings.Fields(string(out)), nil
}

// run runs some tests of a suite and calls each for every one that ends. That tests fail is no error.
func run(ctx context.Context, e *cluster.Env, s suite, tests []string, parallel int, each func(result)) error {
	cmd := exec.CommandContext(ctx, e.TestBinary(s.pkg()), append([]string{
		"-test.v", "-test.run=" + pattern(tests), "-test.timeout=60m", "-test.parallel=" + strconv.Itoa(parallel),
		"-kubeconfig=" + e.Kubeconfig(), "-dockerrepo=" + e.Registry(),
		"-ingress-class=" + ingress.Class, "-ingressendpoint=" + e.Node(),
		"-enable-beta", "-enable-alpha", "-disable-logstream",
	}, s.flags...)...)
	cmd.Env = append(os.Environ(), "GATEWAY_NAMESPACE_OVERRIDE="+ingress.Namespace, "GATEWAY_OVERRIDE="+ingress.Service)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("running %s: %w", s.pkg(), err)
	}
	failed := false
	last, err := parse(out, func(r result) {
		failed = failed || r.outcome == failure
		each(r)
	})
	ended := cmd.Wait()
	if failed { // which it says itself
		ended = nil
	}
	if err := errors.Join(ended, err); err != nil {
		return fmt.Errorf("running %s: %w\n%s\n%s", s.pkg(), err, last, stderr.String())
	}
	return nil
}
