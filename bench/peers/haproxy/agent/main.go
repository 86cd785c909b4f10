// The SPOE agent that HAProxy asks about each request: it reads the argument that came with the message N times and sets the variable
// calls of the transaction to N, of which HAProxy makes the header x-bench.
//
//	agent SOCKET N
package main

import (
	"log"
	"net"
	"os"
	"strconv"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: agent SOCKET N")
	}
	calls, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	answer := func(message Message) Variable {
		for i := 0; i < calls; i++ {
			_ = message.Argument("agent")
		}
		return Variable{Name: "calls", Value: int64(calls)}
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer connection.Close()
			if err := Serve(connection, answer); err != nil {
				log.Print(err)
			}
		}()
	}
}
