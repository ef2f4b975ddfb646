package spread

import (
	"encoding/binary"
	"math/rand/v2"

	"gonum.org/v1/gonum/stat/distuv"
)

// A chance is the source of random numbers of one run.
type chance struct {
	*rand.Rand
	source rand.Source
}

// newChance returns the chance of one run of one simulation: equal arguments give equal numbers.
func newChance(seed uint64, simulation, run int) chance {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[0:], seed)
	binary.LittleEndian.PutUint64(key[8:], uint64(simulation))
	binary.LittleEndian.PutUint64(key[16:], uint64(run))
	source := rand.NewChaCha8(key) // neighbouring seeds of PCG give numbers that are alike
	return chance{rand.New(source), source}
}

// binomial draws the number of successes in n attempts.
func (c chance) binomial(n int, p float64) int {
	switch {
	case n <= 0 || p <= 0:
		return 0
	case p >= 1:
		return n
	}
	return int(distuv.Binomial{N: float64(n), P: p, Src: c.source}.Rand())
}

// poisson draws a number of events.
func (c chance) poisson(mean float64) int {
	if mean <= 0 {
		return 0
	}
	return int(distuv.Poisson{Lambda: mean, Src: c.source}.Rand())
}

// divide spreads n over places by their shares, which sum up to 1, and adds them to into.
func (c chance) divide(n int, shares []float64, into []int) {
	rest := 1.0
	for i, p := range shares {
		if n == 0 {
			return
		}
		k := n
		if i < len(shares)-1 {
			k = c.binomial(n, min(1, p/rest))
		}
		into[i] += k
		n -= k
		rest -= p
	}
}

// evenly spreads n over the endpoints, each as likely as the other, and adds them to load.
func (c chance) evenly(n int, endpoints []int, load []float64) {
	for i, e := range endpoints {
		k := c.binomial(n, 1/float64(len(endpoints)-i))
		load[e] += float64(k)
		n -= k
	}
}

// A wheel draws clients by their shares in constant time (the alias method).
type wheel struct {
	keep  []float64
	other []int32
}

func newWheel(shares []float64) wheel {
	n := len(shares)
	w := wheel{keep: make([]float64, n), other: make([]int32, n)}
	var small, large []int32
	for i, p := range shares {
		w.keep[i] = p * float64(n)
		if w.keep[i] < 1 {
			small = append(small, int32(i))
		} else {
			large = append(large, int32(i))
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		w.other[s] = l
		if w.keep[l] -= 1 - w.keep[s]; w.keep[l] < 1 {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	for _, i := range append(small, large...) {
		w.keep[i] = 1 // but for rounding
	}
	return w
}

func (w wheel) draw(c chance) int {
	i := c.IntN(len(w.keep))
	if c.Float64() < w.keep[i] {
		return i
	}
	return int(w.other[i])
}
