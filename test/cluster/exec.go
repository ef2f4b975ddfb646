package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
)

// Exec runs a command in a container of a pod in the test's namespace and returns what it printed, standard output and error
// mixed. The images of this package hold one binary and no shell.
func (e *Env) Exec(ctx context.Context, pod, container string, argv ...string) (string, error) {
	request := e.CoreV1().RESTClient().Post().Resource("pods").Namespace(e.Namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: argv, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(e.Config, "GET", request.URL().String())
	if err != nil {
		return "", err
	}
	var out output
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &out})
	if err != nil {
		err = fmt.Errorf("running %s in pod %s: %w", argv[0], pod, err)
	}
	return out.text.String(), err
}

// An output is written by two goroutines, one for each stream.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write appends what one of the streams brought.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

// PodLog returns the log of a container of a pod in the test's namespace.
func (e *Env) PodLog(ctx context.Context, pod, container string) (string, error) {
	lines := int64(200)
	options := &corev1.PodLogOptions{Container: container, TailLines: &lines}
	stream, err := e.CoreV1().Pods(e.Namespace).GetLogs(pod, options).Stream(ctx)
	if err != nil {
		return "", err
	}
	defer stream.Close()
	text, err := io.ReadAll(stream)
	return string(text), err
}
