// The chaos plugin in Go: it marks the request as checked, unless a request asks for a fault first. Its siblings in ../python
// and ../node have the same faults.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/Kong/go-pdk"
	"github.com/Kong/go-pdk/server"
)

// Config says what goes wrong whatever a request asks for.
type Config struct {
	First  string `json:"first"`  // the fault to commit before the first PDK call
	Refuse Refuse `json:"refuse"` // whether the instance cannot be started
}

// Refuse is a boolean that does not decode when it is true: go-pdk starts no instance then.
type Refuse bool

// UnmarshalJSON fails for true.
func (r *Refuse) UnmarshalJSON(text []byte) error {
	if string(text) == "true" {
		return errors.New("told to refuse")
	}
	return nil
}

// New returns an empty configuration.
func New() interface{} { return &Config{} }

// Access marks the request, after the fault.
func (conf Config) Access(kong *pdk.PDK) {
	if conf.First != "" {
		commit(conf.First, kong)
	}
	fault, _ := kong.Request.GetHeader("x-fault")
	commit(fault, kong)
	time.Sleep(10 * time.Millisecond) // so that some events are always under way
	_ = kong.ServiceRequest.SetHeader("X-Checked", "yes")
}

func commit(fault string, kong *pdk.PDK) {
	switch fault {
	case "raise":
		panic("told to raise")
	case "exit":
		os.Exit(3)
	case "hang":
		time.Sleep(time.Hour)
	case "spin":
		for {
		}
	case "flood":
		line := strings.Repeat("flood ", 170) + "\n"
		for i := 0; i < 50000; i++ {
			fmt.Fprint(os.Stderr, line)
		}
	case "loop":
		for {
			_, _ = kong.Request.GetMethod()
		}
	case "big":
		_ = kong.Response.SetHeader("X-Big", strings.Repeat("a", 256<<20))
	case "children":
		grandchildren()
	case "garbage":
		send(frame([]byte(strings.Repeat("\xff", 64))), false)
	case "truncated":
		send(append(length(1000), "abc"...), true)
	case "oversized":
		send(append(length(0xfffffff0), strings.Repeat("x", 65536)...), false)
	case "sequence":
		// The end of the event, and an answer to a call that nobody made.
		send(append(frame(nil), frame([]byte{0x08, 0xff, 0xff, 0xff, 0xff, 0x07})...), false)
	case "closed":
		send(nil, true)
	}
}

func length(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }

func frame(bytes []byte) []byte { return append(length(uint32(len(bytes))), bytes...) }

// send writes to every connection that the gateway has to this process, behind the back of the PDK.
func send(bytes []byte, shutdown bool) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, entry := range entries {
		fd, _ := strconv.Atoi(entry.Name())
		local, err := syscall.Getsockname(fd)
		if err != nil {
			continue
		}
		address, unix := local.(*syscall.SockaddrUnix)
		if _, err := syscall.Getpeername(fd); !unix || address.Name == "" || err != nil {
			continue
		}
		_, _ = syscall.Write(fd, bytes)
		if shutdown {
			_ = syscall.Shutdown(fd, syscall.SHUT_RDWR)
		}
	}
}

// grandchildren leaves two processes behind: one in the process's group, one in a session of its own.
func grandchildren() {
	prefix := os.Args[len(os.Args)-1]
	for _, own := range []bool{false, true} {
		command := exec.Command("sh", "-c", "while :; do sleep 1; done", "grandchild", prefix)
		command.SysProcAttr = &syscall.SysProcAttr{Setsid: own}
		_ = command.Start()
	}
}

func main() {
	if err := server.StartServer(New, "1.0.0", 0); err != nil {
		log.Fatal(err)
	}
}
