package config

import (
	"context"
	"crypto/sha256"
	"time"
)

// WatchInterval is how often Watch and WatchFile look at a file unless told otherwise.
const WatchInterval = time.Second

// Watch looks at the file that c was loaded from each interval ([WatchInterval] if it is 0) until ctx ends, and then returns. When
// its content has changed, changed gets the new configuration, or what is wrong with it: a gateway keeps the old one then. Neither an
// unchanged file nor the same error again is told. Watch calls changed from its own goroutine, one call at a time.
//
// It compares contents, so that a ConfigMap, whose files are links that are turned all at once, works as well as an editor.
// A content counts once it was read twice in a row: a file that is being written is not taken for a short one. A configuration that
// names files which cannot be read yet is tried again each time.
func Watch(ctx context.Context, c *Config, interval time.Duration, changed func(*Config, error)) {
	w := watcher{file: c.origin.file, known: c.origin.sum, last: c.origin.sum}
	w.complain = func(err error) { changed(nil, err) }
	w.apply = func(data []byte) (again bool, err error) {
		next, err := Parse(c.origin.file, data)
		if err != nil {
			return false, err
		}
		if err := next.CheckFiles(); err != nil {
			return true, err
		}
		changed(next, nil)
		return false, nil
	}
	w.run(ctx, interval)
}

// WatchFile is [Watch] for any file of at most [MaxBytes], such as one of keys. known is the content that the caller has already.
func WatchFile(ctx context.Context, file string, interval time.Duration, known []byte, changed func(data []byte, err error)) {
	sum := sha256.Sum256(known)
	w := watcher{file: file, known: sum, last: sum}
	w.complain = func(err error) { changed(nil, err) }
	w.apply = func(data []byte) (bool, error) { changed(data, nil); return false, nil }
	w.run(ctx, interval)
}

// A watcher looks at one file.
type watcher struct {
	file      string
	known     [sha256.Size]byte // the content that was applied, or found wrong
	last      [sha256.Size]byte // the content at the last look
	complaint string            // the error told last, "" after a success
	// apply takes a new content. If again is true it is tried once more at the next look, although it is the same.
	apply    func(data []byte) (again bool, err error)
	complain func(error)
}

func (w *watcher) run(ctx context.Context, interval time.Duration) {
	if interval <= 0 {
		interval = WatchInterval
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.look()
		}
	}
}

func (w *watcher) look() {
	data, err := read(w.file)
	if err != nil {
		w.tell(err)
		return
	}
	sum := sha256.Sum256(data)
	stable := sum == w.last
	w.last = sum
	if sum == w.known || !stable {
		return
	}
	again, err := w.apply(data)
	if !again {
		w.known = sum
	}
	w.tell(err)
}

// tell complains of an error unless it did so the last time.
func (w *watcher) tell(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != w.complaint {
		w.complain(err)
	}
	w.complaint = text
}
