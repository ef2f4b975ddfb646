// Package config reads the configuration of limpet serve: one YAML file, decoded strictly into plain data.
//
// A configuration that is wrong is refused whole, and all that is wrong is told at once, each with its file, line, field and what
// was expected. What was accepted refers to nothing that does not exist and has every default filled in. The package opens no
// socket and starts no goroutine of its own; files that a configuration names are read only by [Load], [Config.Proxy] and
// [Config.CheckFiles].
//
// Start with [Load] and [Config]. The comments of the fields are the text of docs/configuration.md and of schema.json.
package config
