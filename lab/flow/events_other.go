//go:build !linux

package flow

import (
	"context"
	"errors"

	"github.com/limpet-project/limpet/lab/clientip"
)

// An eventReader is of Linux only.
type eventReader struct{}

func openEvents() (*eventReader, error) {
	return nil, errors.New("new connections are watched on Linux only")
}

func (*eventReader) read(context.Context, func(clientip.Flow), func()) error { return nil }
