package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/rueidis"

	"github.com/limpet-project/limpet/binding"
)

// Errors of a Store besides binding's.
var (
	// ErrSecretMismatch means that another gateway works with another digest secret on the same store.
	ErrSecretMismatch = errors.New("the store belongs to gateways with another digest secret")
	// ErrClosed means that the Store was closed. It is a kind of unavailable.
	ErrClosed = fmt.Errorf("%w: closed", binding.ErrUnavailable)
)

var (
	errNotConnected = errors.New("not connected")
	errNoTracking   = errors.New("the server reports no changes to this user (CLIENT TRACKING with RESP3)")
)

// failure turns an error of the client into one of this package: the caller's own cancellation is passed on, out of memory is
// ErrFull, and everything else means that the store cannot be asked now.
func failure(ctx context.Context, doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("%s: %w", doing, context.Canceled)
	case errors.Is(err, binding.ErrUnavailable), errors.Is(err, binding.ErrFull):
		return fmt.Errorf("%s: %w", doing, err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w: %w", doing, binding.ErrUnavailable, context.DeadlineExceeded)
	case outOfMemory(err):
		return fmt.Errorf("%s: %w: %v", doing, binding.ErrFull, err)
	}
	return fmt.Errorf("%s: %w: %v", doing, binding.ErrUnavailable, err)
}

// outOfMemory recognises Redis's OOM error, which servers before 7 wrap in another when a script meets it.
func outOfMemory(err error) bool {
	_, replied := rueidis.IsRedisErr(err)
	return replied && strings.Contains(err.Error(), "OOM command not allowed")
}
