package admin

import (
	"embed"
	"io/fs"
	"net/http"
)

//go:embed ui
var ui embed.FS

// page serves the operators' page. It loads nothing from elsewhere, and no other page may show it in a frame.
func page() http.Handler {
	files, err := fs.Sub(ui, "ui")
	if err != nil {
		panic(err) // the folder is embedded
	}
	serve := http.FileServerFS(files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		serve.ServeHTTP(w, r)
	})
}
