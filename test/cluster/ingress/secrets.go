package ingress

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpet-project/limpet/test/cluster/kube"
)

// Secrets that the manifests name and do not hold.
const (
	KeysSecret  = "limpet-keys"
	RedisSecret = "limpet-redis"
)

// MakeSecrets makes the namespace and the secrets as the manifests' examples say, unless they are there.
func (s Source) MakeSecrets(ctx context.Context, c *kube.Client) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace}}
	if _, err := c.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("making namespace %s: %w", Namespace, err)
	}
	_, err := c.CoreV1().Secrets(Namespace).Get(ctx, KeysSecret, metav1.GetOptions{})
	if err == nil {
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return err
	}
	keys, err := s.makeKeys(ctx)
	if err != nil {
		return err
	}
	password := map[string][]byte{"password": []byte(rand.Text())}
	for _, secret := range []struct {
		name string
		data map[string][]byte
	}{{RedisSecret, password}, {KeysSecret, keys}} { // the keys last: with them all is there
		o := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secret.name}, Data: secret.data}
		if _, err := c.CoreV1().Secrets(Namespace).Create(ctx, o, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("making secret %s: %w", secret.name, err)
		}
	}
	return nil
}

// makeKeys lets limpet make the keys.
func (s Source) makeKeys(ctx context.Context) (map[string][]byte, error) {
	dir, err := os.MkdirTemp("", "limpet-keys-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	keys := map[string][]byte{}
	for kind, name := range map[string]string{"digest": "digest.key", "tokens": "tokens.keys"} {
		file := filepath.Join(dir, name)
		if out, err := exec.CommandContext(ctx, s.Limpet, "keys", kind, file).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("limpet keys %s: %w: %s", kind, err, out)
		}
		if keys[name], err = os.ReadFile(file); err != nil {
			return nil, err
		}
	}
	return keys, nil
}
