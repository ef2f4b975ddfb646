package token

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	secretOne = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
	secretTwo = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
)

func mustRotate(t *testing.T, r *Ring, keep int, at time.Time) *Ring {
	t.Helper()
	rotated, err := r.Rotate(keep, at, 0)
	if err != nil {
		t.Fatalf("Rotate(%d) = %v, want no error", keep, err)
	}
	return rotated
}

func TestAKeyFileIsReadInItsOrder(t *testing.T) {
	r, err := ParseRing([]byte("# kept by limpet keys\n\n" +
		"3f9a01c2 " + secretTwo + " 2026-03-14T09:00:00Z 2026-03-14T10:00:00Z\r\n" +
		"  00c0ffee " + secretOne + "\t2026-02-14T09:00:00Z  \n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Key{
		{ID: KeyID{0x3f, 0x9a, 0x01, 0xc2}, Created: time.Date(2026, 3, 14, 9, 0, 0, 0, time.UTC), SealsFrom: time.Date(2026, 3, 14, 10, 0, 0, 0, time.UTC)},
		{ID: KeyID{0x00, 0xc0, 0xff, 0xee}, Created: time.Date(2026, 2, 14, 9, 0, 0, 0, time.UTC), SealsFrom: time.Date(2026, 2, 14, 9, 5, 0, 0, time.UTC)},
	}
	if diff := cmp.Diff(want, r.Keys()); diff != "" {
		t.Errorf("Keys (-want +got):\n%s", diff)
	}
	if k, _ := r.Sealing(now); k.ID.String() != "00c0ffee" {
		t.Errorf("Sealing(%v) = %v, want 00c0ffee: the newer key does not seal before 10:00", now, k.ID)
	}
	if k, _ := r.Sealing(now.Add(time.Hour)); k.ID.String() != "3f9a01c2" {
		t.Errorf("Sealing(%v) = %v, want 3f9a01c2", now.Add(time.Hour), k.ID)
	}
}

func TestErrorsOfAKeyFileNameTheLineAndNoSecret(t *testing.T) {
	good := "3f9a01c2 " + secretOne + " 2026-03-14T09:00:00Z\n"
	for _, c := range []struct{ name, file, want string }{
		{"empty", "", "no key in it"},
		{"comments alone", "# nothing\n", "no key in it"},
		{"secret alone", secretOne + "\n", "line 1: 1 fields, expected an id, a secret, the time of its making and perhaps the time from which it seals"},
		{"secret in the place of the id", good + secretTwo + " 3f9a01c3 2026-03-14T09:00:00Z\n", "line 2: id: expected eight hexadecimal digits"},
		{"long id", "3f9a01c2ff " + secretOne + " 2026-03-14T09:00:00Z\n", "line 1: id: expected eight hexadecimal digits"},
		{"short secret", "3f9a01c2 AQEBAQ== 2026-03-14T09:00:00Z\n", "line 1: secret: expected 32 bytes in base64"},
		{"secret cut off", "3f9a01c2 " + secretOne[:30] + " 2026-03-14T09:00:00Z\n", "line 1: secret: expected 32 bytes in base64"},
		{"no time", "3f9a01c2 " + secretOne + " yesterday\n", "line 1: created: expected a time such as 2026-01-02T15:04:05Z"},
		{"secret in the place of a time", "3f9a01c2 " + secretOne + " " + secretTwo + "\n", "line 1: created: expected a time such as 2026-01-02T15:04:05Z"},
		{"no sealing time", "3f9a01c2 " + secretOne + " 2026-03-14T09:00:00Z later\n", "line 1: seals from: expected a time such as 2026-01-02T15:09:05Z"},
		{"same id twice", good + "\n# again\n" + good, "line 4: id 3f9a01c2 is that of line 1 too"},
		{"too long", strings.Repeat("#", maxRingBytes+1), "longer than 65536 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := ParseRing([]byte(c.file))
			if err == nil || err.Error() != c.want {
				t.Fatalf("ParseRing = %v, %v, want error %q", r, err, c.want)
			}
			for _, secret := range []string{secretOne[:8], secretTwo[:8]} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("ParseRing = %v, which tells a secret", err)
				}
			}
		})
	}
}

func TestTooManyKeysAreRefused(t *testing.T) {
	var file strings.Builder
	for i := range MaxKeys + 1 {
		fmt.Fprintf(&file, "%08x %s 2026-03-14T09:00:00Z\n", i, secretOne)
	}
	if r, err := ParseRing([]byte(file.String())); err == nil {
		t.Errorf("ParseRing of %d keys = %v, want an error", MaxKeys+1, r)
	}
}

func TestAFormattedRingOpensWhatTheRingSealed(t *testing.T) {
	r := mustRotate(t, newTestRing(t), 3, now)
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, r.Format(), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r.Keys(), again.Keys()); diff != "" {
		t.Errorf("Keys of the ring read back (-want +got):\n%s", diff)
	}
	if _, err := again.Open(mustSeal(t, r, claim), scope, now); err != nil {
		t.Errorf("Open = %v, want no error", err)
	}
}

func TestLoadNamesTheFileOfAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, []byte("3f9a01c2 short 2026-03-14T09:00:00Z\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := "token keys in " + path + ": line 1: secret: expected 32 bytes in base64"
	if _, err := Load(path); err == nil || err.Error() != want {
		t.Errorf("Load = %v, want %q", err, want)
	}
	if _, err := Load(path + ".missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load of a missing file = %v, want ErrNotExist", err)
	}
}

// Two gateways read the rotated file up to four minutes apart; each opens, at every moment, what the other seals.
func TestRotationLosesNoSessionWhileGatewaysReloadAtDifferentTimes(t *testing.T) {
	old := newTestRing(t)
	rotated := mustRotate(t, old, 2, now)
	for at := now; at.Before(now.Add(10 * time.Minute)); at = at.Add(10 * time.Second) {
		slow := old
		if at.Sub(now) >= 4*time.Minute {
			slow = rotated
		}
		for _, pair := range [][2]*Ring{{rotated, slow}, {slow, rotated}} {
			value, err := pair[0].Seal(claim, at)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pair[1].Open(value, scope, at); err != nil {
				t.Fatalf("%v after the rotation a gateway opens the other's token: %v, want no error", at.Sub(now), err)
			}
		}
	}
	newest := rotated.Keys()[0].ID
	if k, _ := rotated.Sealing(now.Add(SealDelay)); k.ID != newest {
		t.Errorf("%v after the rotation %v seals, want the new key %v", SealDelay, k.ID, newest)
	}
}

func TestRotationKeepsTheKeyThatSeals(t *testing.T) {
	r := newTestRing(t)
	value := mustSeal(t, r, claim)
	for i := range 5 {
		r = mustRotate(t, r, 1, now.Add(time.Duration(i)*time.Second))
	}
	if _, err := r.Open(value, scope, now); err != nil {
		t.Errorf("Open after five rotations in five seconds = %v, want no error", err)
	}
	r = mustRotate(t, r, 2, now.Add(time.Hour))
	if r.Len() != 2 {
		t.Errorf("Rotate(2) an hour later leaves %d keys, want 2", r.Len())
	}
	if _, err := r.Open(value, scope, now); err != ErrInvalid {
		t.Errorf("Open with its key dropped = %v, want ErrInvalid", err)
	}
}

func TestRotationOfNoRingMakesOne(t *testing.T) {
	var none *Ring
	if r := mustRotate(t, none, 3, now); r.Len() != 1 {
		t.Errorf("Rotate of no ring = %v, want one key", r)
	}
}

func TestAPrintedRingTellsNoSecret(t *testing.T) {
	r, err := ParseRing([]byte("3f9a01c2 " + secretOne + " 2026-03-14T09:00:00Z\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		text := fmt.Sprintf(format, r) + fmt.Sprintf(format, *r) + fmt.Sprintf(format, r.Keys())
		if strings.Contains(text, "1 1 1 1") || strings.Contains(text, "0x1, 0x1") || strings.Contains(text, "01010101") {
			t.Errorf("Sprintf(%q, ring) = %s, which tells the secret", format, text)
		}
	}
}

func TestKeysAreSwappedWhileInUse(t *testing.T) {
	first := newTestRing(t)
	keys := NewKeys(first)
	second := mustRotate(t, first, 2, now)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				value, err := keys.Seal(claim, now)
				if err != nil {
					t.Errorf("Seal = %v, want no error", err)
				}
				if _, err := keys.Open(value, scope, now); err != nil {
					t.Errorf("Open = %v, want no error", err)
				}
			}
		})
	}
	if was := keys.Swap(second); was != first {
		t.Errorf("Swap = %p, want the first ring %p", was, first)
	}
	wg.Wait()
	if keys.Ring() != second {
		t.Errorf("Ring = %p, want the second ring %p", keys.Ring(), second)
	}
}

func FuzzParseRing(f *testing.F) {
	f.Add([]byte("# c\n3f9a01c2 " + secretOne + " 2026-03-14T09:00:00Z 2026-03-14T10:00:00+02:00\n"))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRing(data)
		if err != nil {
			return
		}
		formatted := r.Format()
		again, err := ParseRing(formatted)
		if err != nil || !bytes.Equal(again.Format(), formatted) {
			t.Errorf("ParseRing(Format(%q)) = %v, %v, want the same ring", data, again, err)
		}
	})
}
