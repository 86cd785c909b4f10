module silverback.example/bench

go 1.21
