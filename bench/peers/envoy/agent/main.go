// The server that Envoy's filter ext_proc asks about each request: it reads one header of the request N times and answers with the
// metadata bench:calls, of which Envoy makes the header x-bench.
//
//	agent SOCKET N
package main

import (
	"errors"
	"io"
	"log"
	"net"
	"os"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"
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
	server := grpc.NewServer()
	extprocv3.RegisterExternalProcessorServer(server, &processor{calls: calls, answer: answer(calls)})
	log.Fatal(server.Serve(listener))
}

type processor struct {
	extprocv3.UnimplementedExternalProcessorServer
	calls int
	// The same for every request, and never changed.
	answer *extprocv3.ProcessingResponse
}

func answer(calls int) *extprocv3.ProcessingResponse {
	metadata, err := structpb.NewStruct(map[string]any{"bench": map[string]any{"calls": strconv.Itoa(calls)}})
	if err != nil {
		log.Fatal(err)
	}
	return &extprocv3.ProcessingResponse{
		Response:        &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{}},
		DynamicMetadata: metadata,
	}
}

// Process serves the stream of one request.
func (p *processor) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		headers := request.GetRequestHeaders().GetHeaders().GetHeaders()
		for i := 0; i < p.calls; i++ {
			_ = header(headers, "user-agent")
		}
		if err := stream.Send(p.answer); err != nil {
			return err
		}
	}
}

func header(headers []*corev3.HeaderValue, name string) []byte {
	for _, header := range headers {
		if header.Key == name {
			return header.RawValue
		}
	}
	return nil
}
