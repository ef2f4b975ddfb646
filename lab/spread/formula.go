package spread

import (
	"math"
	"slices"

	"gonum.org/v1/gonum/stat/distuv"
)

// Effective returns the number of equal clients that spread as unevenly as clients of these weights: (sum w)^2 / sum w^2.
func Effective(weights []float64) float64 {
	sum, squares := 0.0, 0.0
	for _, w := range weights {
		sum += w
		squares += w * w
	}
	return sum * sum / squares
}

// Variation returns the coefficient of variation of the load of endpoints over which so many equal units fall at random:
// sqrt((endpoints-1)/units). It is the root of the mean of its square.
func Variation(endpoints int, units float64) float64 {
	return math.Sqrt(float64(endpoints-1) / units)
}

// MaxOverMean returns about what the fullest of the endpoints carries relative to the mean, on average. It is that of normal loads with that
// coefficient of variation, or, if that is more, the largest unit's share with what falls beside it: within a tenth, or with fewer units than
// endpoints within a fifth. It is never more than the number of endpoints.
func MaxOverMean(endpoints int, variation, largest float64) float64 {
	if endpoints < 2 {
		return 1
	}
	m := float64(endpoints)
	normal := 1 + variation*math.Sqrt(m/(m-1))*meanOfHighest(endpoints)
	return min(m, max(normal, largest*m+1-largest))
}

// meanOfHighest returns the mean of the highest of n standard normal numbers.
func meanOfHighest(n int) float64 {
	const step, end = 0.005, 10
	sum := 0.0
	for x := -float64(end); x <= end; x += step {
		density := math.Exp(-x*x/2) / math.Sqrt(2*math.Pi)
		sum += x * float64(n) * density * math.Pow(0.5*math.Erfc(-x/math.Sqrt2), float64(n-1))
	}
	return sum * step
}

// A forecast is what formulas say of the spread under one policy. The zero of a field is that there is none.
type forecast struct {
	variation, maxOverMean float64
	upTo                   bool // the policy evens out what is above
}

// forecast returns what formulas say of a policy's spread.
func (w *world) forecast(p Policy) forecast {
	if p == PolicyClientIP && w.thrashes() {
		return forecast{} // what sticks and what does not is mixed
	}
	perClient, perQuery := w.units(p)
	f := forecast{variation: w.variation(perClient, perQuery), upTo: p == PolicyRendezvous || p == PolicyBound}
	if p == PolicyClientIP && w.Sockets != 1 && w.cliff().Near {
		f.upTo = true // clients whose list is full move to where there is room
	}
	if w.Zones == 1 {
		largest := 1 / w.flows()
		if !perQuery {
			largest = slices.Max(w.share) / float64(perClient)
		}
		f.maxOverMean = MaxOverMean(w.Endpoints, f.variation, largest)
	}
	return f
}

// variation is sqrt((M-1)/Ceff) where there is one zone and no end of queries. In full it is of the mean square of what an endpoint gets.
//
// Of F queries a unit with the share u sends q, where E[q^2] = F^2 (u^2 + u(1-u)/F), and two units send E[q q'] = F^2 (1-1/F) u u'. An endpoint
// gets all queries of a unit with probability 1/k, where k is the number of endpoints that the unit's zone is sent to, and of two units
// independently. Summed over units, and over the zones that send to the endpoint, that is its mean square.
func (w *world) variation(perClient int, perQuery bool) float64 {
	flows := w.flows()
	own, pairs, share := make([]float64, len(w.local)), make([]float64, len(w.local)), make([]float64, len(w.local))
	for i, p := range w.share {
		z := w.Clients[i].Zone
		share[z] += p
		if perQuery {
			own[z] += p / flows
			continue
		}
		u := p / float64(perClient)
		own[z] += float64(perClient) * (u*u + u*(1-u)/flows)
		pairs[z] += float64(perClient) * u * u
	}
	squares, means := make([]float64, w.Endpoints), make([]float64, w.Endpoints)
	for z, endpoints := range w.local {
		k := float64(len(endpoints))
		for _, e := range endpoints {
			squares[e] += own[z]/k - (1-1/flows)*pairs[z]/k/k
			means[e] += share[z] / k
		}
	}
	m, sum := float64(w.Endpoints), 0.0
	for e, mean := range means {
		sum += squares[e] + (1-1/flows)*mean*mean
	}
	return math.Sqrt(max(0, sum*m-1))
}

// binomial returns the probability of k successes in n attempts.
func binomial(n, k int, p float64) float64 {
	return distuv.Binomial{N: float64(n), P: p}.Prob(float64(k))
}
