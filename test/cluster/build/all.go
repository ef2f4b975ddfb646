package build

import (
	"context"
	"errors"
	"sync"
)

// All builds the parts, two at a time so that downloads of one overlap with the compiler of the other. Progress is told by one
// goroutine at a time. The first error ends the rest.
func (c Cache) All(ctx context.Context, parts []Part, progress func(Event)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	told := func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		progress(e)
	}
	queue := make(chan Part)
	for range 2 {
		wg.Go(func() {
			for p := range queue {
				if err := c.Build(ctx, p, told); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
					cancel()
				}
			}
		})
	}
	for _, p := range parts {
		if ctx.Err() == nil {
			queue <- p
		}
	}
	close(queue)
	wg.Wait()
	if len(errs) > 0 {
		return errs[0] // the others are of builds that it ended
	}
	return errors.Join(ctx.Err())
}
