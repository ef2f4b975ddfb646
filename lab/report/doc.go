// Package report draws a prediction, or a measurement, as one HTML page with plots, for a browser and for print.
//
// A page is complete in itself: it loads nothing and runs nothing, and is readable in light and dark. What a scenario says is escaped.
//
// Start with [Write] and [WriteMeasured].
package report
