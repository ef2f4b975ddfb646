// Package telemetry makes visible what a gateway does: metrics for Prometheus, an access log, and spans for OpenTelemetry. It is the one
// place where those libraries are used; the packages that it observes declare what they tell.
//
// Observing never holds a request up: counting takes no lock, log lines that cannot be written in time are dropped and counted,
// and what is off costs nothing. Labels come only from names that sources list and from closed lists, so that clients cannot
// add series; those of services that no longer exist are deleted. Ids appear nowhere, only keys, and those only in the log.
//
// Start with [NewMetrics] and [Observers].
package telemetry
