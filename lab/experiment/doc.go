// Package experiment measures in network namespaces what package spread predicts: how clients spread over endpoints with kube-proxy's rules and
// with Limpet, how affinity ends when lists overflow, and what faults do.
//
// It repeats every measurement with other clients, sets the theory beside it, with the interval in which the mean of so many runs lies in 95 of
// 100 cases, and gives no verdict from a few runs. What the kernel draws is not seeded, so equal seeds give equal loads but not equal results. It
// measures where queries go, not how fast; a cell that lost queries is not counted.
//
// Start with [Presets] and [Run].
package experiment
