package scaledown

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/util/flowcontrol"
)

// A writer writes costs on pods.
type writer struct {
	pods   typedcorev1.PodsGetter
	ledger *ledger
	limit  flowcontrol.RateLimiter
	log    *slog.Logger
	denied bool // the last write was forbidden
}

// write writes the costs that are due, until ctx ends.
func (w *writer) write(ctx context.Context, pods []Pod) {
	for _, c := range w.ledger.due(pods, time.Now()) {
		if w.limit.Wait(ctx) != nil {
			return
		}
		err := w.patch(ctx, c)
		w.ledger.note(c, time.Now(), err)
		if w.tell(c, err); w.denied {
			return
		}
	}
}

// tell logs what became of a write. That a pod is gone is no news, and what is forbidden is forbidden for all.
func (w *writer) tell(c change, err error) {
	denied := apierrors.IsForbidden(err)
	switch {
	case denied && w.denied, apierrors.IsNotFound(err):
	case denied:
		w.log.Error("pods with sessions may be the first to end: their costs may not be written; expected a role that may patch pods", "error", err)
	case err != nil:
		w.log.Warn("writing what the end of a pod costs", "namespace", c.pod.Namespace, "pod", c.pod.Name, "error", err)
	default:
		w.log.Debug("wrote what the end of a pod costs", "namespace", c.pod.Namespace, "pod", c.pod.Name, "cost", c.cost)
	}
	w.denied = denied
}

// patch writes one cost. A pod without sessions has none on it, as it had at first.
func (w *writer) patch(ctx context.Context, c change) error {
	ctx, cancel := context.WithTimeout(ctx, patchTime)
	defer cancel()
	text, err := patchOf(c)
	if err != nil {
		return err
	}
	_, err = w.pods.Pods(c.pod.Namespace).Patch(ctx, c.pod.Name, types.MergePatchType, text, metav1.PatchOptions{})
	return err
}

// patchOf returns the patch that writes a cost. It names the pod's UID, which nobody can change: the API server refuses it for another
// pod of the same name.
func patchOf(c change) ([]byte, error) {
	var value *string // null takes the annotation away
	if c.cost > 0 {
		value = new(strconv.FormatInt(c.cost, 10))
	}
	text, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": c.pod.UID, "annotations": map[string]*string{corev1.PodDeletionCost: value},
	}})
	if err != nil {
		return nil, fmt.Errorf("making a patch: %w", err)
	}
	return text, nil
}
