package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/limpet-project/limpet/test/cluster"
)

// deployCounter runs replicas of the counter as a Deployment behind a Service and returns the pods.
func deployCounter(t *testing.T, e *cluster.Env, replicas int) []corev1.Pod {
	t.Helper()
	e.Apply(fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: counter}
spec:
  replicas: %d
  selector: {matchLabels: {app: counter}}
  template:
    metadata: {labels: {app: counter}}
    spec:
      containers:
      - name: counter
        image: %s
        env: [{name: COUNTER_LISTEN, value: "0.0.0.0:8080"}]
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: counter}
spec:
  selector: {app: counter}
  ports: [{port: 80, targetPort: 8080}]
`, replicas, e.Image(counter)))
	e.WaitForDeployment("counter", 2*time.Minute)
	pods, err := e.Pods(t.Context(), "app=counter")
	if err != nil {
		t.Fatal(err)
	}
	if len(pods) != replicas {
		t.Fatalf("deployment counter has %d pods, want %d", len(pods), replicas)
	}
	return pods
}

// An answer is what a counter said.
type answer struct {
	name, count, instance string
}

// client makes a connection for each request, so that each goes where the rules of the moment send it.
var client = http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// incr sends one request of session demo-00001, within a time.
func incr(ctx context.Context, limit time.Duration, address string, header http.Header) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	u := url.URL{Scheme: "http", Host: address, Path: "/incr"}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return answer{}, err
	}
	for k, v := range header {
		r.Header[k] = v
	}
	r.Header.Set("K-Session", "demo-00001")
	resp, err := client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return answer{}, fmt.Errorf("%s: %s", resp.Status, body)
	}
	h := resp.Header
	return answer{h.Get("Counter-Name"), h.Get("Counter-Count"), h.Get("Counter-Instance")}, nil
}

// answers returns nil if a counter answers at an address at once, for those who ask again.
func answers(ctx context.Context, address string) error {
	_, err := incr(ctx, 2*time.Second, address, nil)
	return err
}

// silent returns nil if nothing answers at an address: packets vanish, so the request ends with its own time limit.
func silent(ctx context.Context, address string) error {
	_, err := incr(ctx, 500*time.Millisecond, address, nil)
	if err == nil {
		return errors.New(address + " answers")
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s refuses: %w", address, err)
	}
	return nil
}
