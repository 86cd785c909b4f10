// The plugin of the bench in Go: it reads a request header as often as its configuration says, and tells so in a response header.
// Its siblings in ../node and ../python do the same.
package main

import (
	"log"
	"strconv"

	"github.com/Kong/go-pdk"
	"github.com/Kong/go-pdk/server"
)

// Config is what the gateway's configuration gives under `config`.
type Config struct {
	Calls int `json:"calls"` // how often the header is read
}

// Access makes the calls; one that fails ends the process, so that no wrong figure comes out.
func (conf Config) Access(kong *pdk.PDK) {
	for i := 0; i < conf.Calls; i++ {
		if _, err := kong.Request.GetHeader("user-agent"); err != nil {
			log.Fatal(err)
		}
	}
	if err := kong.Response.SetHeader("x-bench", strconv.Itoa(conf.Calls)); err != nil {
		log.Fatal(err)
	}
}

func main() {
	if err := server.StartServer(func() interface{} { return &Config{} }, "1.0.0", 0); err != nil {
		log.Fatal(err)
	}
}
