package redis

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/limpet-project/limpet/endpoint"
)

const (
	// drainAfter is how long an order outlives its deadline. By then the endpoint has long gone, or should have.
	drainAfter = 24 * time.Hour
	// drainOpen is how long an order without a deadline holds. Everything in the store ends some day; ordering it again renews it.
	drainOpen = 30 * 24 * time.Hour
)

// Drains implements endpoint.DrainStore. An order holds until a day after its deadline; one without a deadline for 30 days.
func (s *Store) Drains(ctx context.Context) ([]endpoint.Drain, error) {
	m, err := runScript(ctx, s, "reading drains", drainsScript, []string{s.keys.drains()}, nil)
	if err != nil {
		return nil, err
	}
	orders, err := m.AsStrSlice()
	if err != nil {
		return nil, failure(ctx, "reading drains", err)
	}
	drains := make([]endpoint.Drain, 0, len(orders))
	for _, order := range orders {
		var d endpoint.Drain
		if err := json.Unmarshal([]byte(order), &d); err != nil {
			return nil, fmt.Errorf("reading drains: %w", err)
		}
		drains = append(drains, d)
	}
	return drains, nil
}

// SetDrain implements endpoint.DrainStore.
func (s *Store) SetDrain(ctx context.Context, d endpoint.Drain) error {
	field, err := json.Marshal([]string{d.Service.Namespace, d.Service.Name, d.Revision, d.Endpoint})
	if err != nil {
		return fmt.Errorf("ordering a drain: %w", err)
	}
	order, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("ordering a drain: %w", err)
	}
	if d.Cancel {
		order = nil
	}
	keep, deadline := drainOpen, int64(0)
	if !d.Until.IsZero() {
		keep, deadline = drainAfter, d.Until.UnixMilli()
	}
	_, err = runScript(ctx, s, "ordering a drain", drainScript, []string{s.keys.drains()},
		[]string{string(field), string(order), number(keep.Milliseconds()), number(deadline)})
	return err
}
