from mixray.report import SearchCost, Work


def test_training_costs_six_and_scoring_two_operations_a_parameter_and_token() -> None:
    work = Work(parameters=1000, tokens=500)
    assert (work.training_flops, work.scoring_flops) == (3e6, 1e6)


def test_a_parameter_that_is_not_trained_has_no_gradient_of_its_own() -> None:
    work = Work(parameters=1000, tokens=500, trained=10)
    assert (work.training_flops, work.scoring_flops) == ((4 * 1000 + 2 * 10) * 500, 1e6)
    assert "(4 x 1,000 parameters + 2 x 10 that are trained) x 500 tokens" in SearchCost([], [], work).formula()


def test_the_search_is_its_proxies_and_their_scoring() -> None:
    cost = SearchCost([Work(1000, 500)] * 3, [Work(1000, 100)] * 3, Work(100_000, 16_000))
    assert cost.search_flops == 3 * 3e6 + 3 * 2e5
    assert cost.retrain_flops == 9.6e9
    assert cost.overhead == 9.6e6 / 9.6e9
    assert cost.compute().model_dump() == {"search_flops": 9.6e6, "retrain_flops": 9.6e9, "overhead": 0.001}


def test_the_formula_shows_every_number_it_comes_from() -> None:
    formula = SearchCost([Work(1000, 500)] * 3, [Work(1000, 100)] * 3, Work(100_000, 16_000)).formula()
    assert formula == (
        "search 9.6e+06 FLOPs = 3 proxies, 6 x parameters x training tokens (9e+06) + 2 x parameters x scored tokens "
        "(6e+05); retraining 9.6e+09 FLOPs = 6 x 100,000 parameters x 16,000 tokens; search / retraining = 0.1 %"
    )


def test_large_models_do_not_overflow() -> None:
    assert Work(parameters=70_000_000_000, tokens=15_000_000_000_000).training_flops == 6.3e24
