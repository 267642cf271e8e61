// What the leaves of decision trees say, added up.
// VOTES: 0 a table (leaves, targets), 1 one target for each leaf, 2 a list; AGGREGATE: 0 sum, 1 least, 2 greatest;
// WEIGHT: type of the weights; WIDTH: targets of a thread; TEAM: threads that have a row, 1 or a warp.
// GROUP trees are added up before they join the others: the order is the same for any number of rows.

__device__ __forceinline__ double combined(double held, double value) {
    if (AGGREGATE == 0) return held + value;
    if (value != value) return held;
    return (AGGREGATE == 1 ? held <= value : held >= value) ? held : value;
}

struct Votes { double of[WIDTH]; };

__device__ __forceinline__ Votes no_votes() {
    Votes votes;
#pragma unroll
    for (int k = 0; k < WIDTH; k++) votes.of[k] = AGGREGATE == 0 ? 0.0 : double(NAN);
    return votes;
}

__device__ __forceinline__ void add_vote(Votes &votes, int target, double weight) {
#pragma unroll
    for (int k = 0; k < WIDTH; k++)
        if (k == target) votes.of[k] = combined(votes.of[k], weight);
}

extern "C" __global__ void vote(const int *__restrict__ leaves, double *__restrict__ scores, long long rows,
                                long long trees, long long row_step, long long tree_step, long long targets,
                                const int64_t *__restrict__ first, const int *__restrict__ target,
                                const WEIGHT *__restrict__ weight) {
    long long row = first_index() / TEAM;
    int lane = TEAM == 1 ? 0 : int(threadIdx.x % WARP), begin = blockIdx.y * WIDTH;
    int groups = row < rows ? (int(trees) + GROUP - 1) / GROUP : 0;
    int most = min(WIDTH, int(targets) - begin);
    Votes total = no_votes();
    for (int start = 0; start < groups; start += TEAM) {
        Votes part = no_votes();
        int tree = (start + lane) * GROUP, end = min(tree + GROUP, int(trees));
#pragma unroll 4
        for (; tree < end; tree++) {
            int leaf = leaves[row * row_step + tree * tree_step];
#if VOTES == 0
            const WEIGHT *found = weight + leaf * targets + begin;
#pragma unroll
            for (int k = 0; k < WIDTH; k++)
                if (k < most) part.of[k] = combined(part.of[k], double(found[k]));
#elif VOTES == 1
            add_vote(part, target[leaf] - begin, double(weight[leaf]));
#else
            for (int64_t i = first[leaf]; i < first[leaf + 1]; i++)
                add_vote(part, target[i] - begin, double(weight[i]));
#endif
        }
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            if (TEAM == 1) {
                total.of[k] = combined(total.of[k], part.of[k]);
            } else {
                for (int j = 0; j < min(TEAM, groups - start); j++)
                    total.of[k] = combined(total.of[k], __shfl_sync(FULL_WARP, part.of[k], j));
            }
        }
    }
    if (row >= rows || lane) return;
#pragma unroll
    for (int k = 0; k < WIDTH; k++)
        if (k < most) scores[row * targets + begin + k] = total.of[k];
}
