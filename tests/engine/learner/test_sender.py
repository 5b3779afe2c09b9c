"""Who sends to whom."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from engine.learner.sender import share_out

HOSTS = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
hosts = st.sampled_from(HOSTS)


def urls_of(servers: list[str], first: int = 0) -> list[str]:
    return [f"http://{host}:{30000 + first + i}" for i, host in enumerate(servers)]


@given(
    st.lists(hosts, min_size=1, max_size=8),
    st.lists(hosts, max_size=12),
    st.lists(hosts, max_size=6),
)
def test_shares_are_near_even_and_kept(ranks: list[str], early: list[str], late: list[str]) -> None:
    before = share_out(urls_of(early), {}, ranks)
    urls = urls_of(early + late)
    shares = share_out(urls, before, ranks)
    assert list(shares) == urls
    assert shares | before == shares, "who has a sender keeps it"
    for url, rank in shares.items():
        host = url.removeprefix("http://").partition(":")[0]
        assert ranks[rank] == host or host not in ranks
    for host in HOSTS:
        if set(ranks) != {host}:
            continue  # with several nodes a rank's share follows the servers of its node
        count = Counter(shares.values())
        sizes = [count[rank] for rank in range(len(ranks))]
        assert max(sizes) - min(sizes) <= 1


def test_servers_of_a_node_without_learners_go_to_who_has_the_fewest() -> None:
    near = share_out(urls_of([HOSTS[0]] * 3), {}, (HOSTS[0], HOSTS[1]))
    assert set(near.values()) == {0}
    far = share_out(urls_of([HOSTS[2]] * 4, first=3), near, (HOSTS[0], HOSTS[1]))
    assert list(far.values()) == [1, 1, 1, 0]
